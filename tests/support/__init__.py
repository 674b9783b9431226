"""What tests stand on: small stores, servers, rigs that run a stage, language models by script."""
