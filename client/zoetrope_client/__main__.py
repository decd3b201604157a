"""`python -m zoetrope_client` is the `zoetrope` command."""

from zoetrope_client.cli import main

main()
