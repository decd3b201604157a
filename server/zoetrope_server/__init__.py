"""The serving side of Zoetrope: pipeline, stage adapters, engine hosts, media, Triton glue, launcher."""
