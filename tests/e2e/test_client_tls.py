"""TLS and mutual TLS between the clients and the real server, with real certificates."""

import subprocess
import sys

import pytest
from certificates import Authority
from fakes import png

from zoetrope_bench.server import serving
from zoetrope_client import AsyncClient, Client, Retry, ServerUnavailable, Tls

pytestmark = pytest.mark.e2e
ONCE = Retry(attempts=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture(scope="module")
def secured(authority, noop_repository, tmp_path_factory):
    """A server that takes TLS alone, and from clients of the authority alone."""
    own = authority.sign("zoetrope.test", "127.0.0.1")
    flags = ("--grpc-cert", own.certificate, "--grpc-key", own.key, "--grpc-client-ca", authority.certificate)
    with serving(noop_repository, tmp_path_factory.mktemp("log") / "log", *map(str, flags)) as running:
        yield running


@pytest.fixture(scope="module")
def own(authority):
    return authority.sign("client.test")


def test_mutual_tls_by_path_and_by_bytes(secured, authority, own):
    paths = Tls(
        root_certificates=authority.certificate, private_key=own.key, certificate_chain=own.certificate
    )
    contents = Tls(
        root_certificates=authority.certificate.read_bytes(),
        private_key=own.key.read_bytes(),
        certificate_chain=own.certificate.read_bytes(),
    )
    for tls in (paths, contents):
        with Client(secured.url, credentials=tls) as client:
            assert client.generate(png(), num_inference_steps=1, seed=4).seed == 4
            assert client.health() and client.metadata().checkpoint


async def test_the_asynchronous_client_speaks_it_too(secured, authority, own):
    tls = Tls(root_certificates=authority.certificate, private_key=own.key, certificate_chain=own.certificate)
    async with AsyncClient(secured.url, credentials=tls) as client:
        assert (await client.generate(png(), num_inference_steps=1)).data


def test_the_certificate_must_have_the_servers_name(secured, authority, own):
    tls = Tls(
        root_certificates=authority.certificate,
        private_key=own.key,
        certificate_chain=own.certificate,
        server_name="other.test",
    )
    with Client(secured.url, credentials=tls, retry=ONCE) as client, pytest.raises(ServerUnavailable):
        client.generate(png())
    named = f"localhost:{secured.url.rpartition(':')[2]}"  # which the certificate does not have
    right = Tls(
        root_certificates=authority.certificate,
        private_key=own.key,
        certificate_chain=own.certificate,
        server_name="zoetrope.test",
    )
    with Client(named, credentials=right) as client:
        assert client.health()


def test_who_is_not_of_the_authority_is_turned_away(secured, authority, own, tmp_path):
    foreign = Authority(tmp_path, "foreign")
    impostor = foreign.sign("client.test")
    refused = [
        None,
        Tls(root_certificates=authority.certificate),
        Tls(
            root_certificates=authority.certificate,
            private_key=impostor.key,
            certificate_chain=impostor.certificate,
        ),
        Tls(root_certificates=foreign.certificate, private_key=own.key, certificate_chain=own.certificate),
    ]
    for tls in refused:
        with Client(secured.url, credentials=tls, retry=ONCE) as client:
            assert client.health(timeout_s=3) is False
            with pytest.raises(ServerUnavailable):
                client.generate(png(), deadline_s=10)


def test_the_command_speaks_it(secured, authority, own, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(png())
    tls = ["--url", secured.url, "--ca", authority.certificate, "--cert", own.certificate, "--key", own.key]
    command = [sys.executable, "-m", "zoetrope_client"]
    made = [*command, "generate", photo, "-o", tmp_path / "v.mp4", "--num-inference-steps", "1", *tls]
    subprocess.run(list(map(str, made)), check=True, timeout=60)
    assert (tmp_path / "v.mp4").stat().st_size
    told = subprocess.run(
        list(map(str, [*command, "info", *tls])), capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0 and "ready" in told.stdout
