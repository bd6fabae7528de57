"""By hand: `PYTHONPATH=scripts python tests/synthetic FOLDER` makes a sweep in which some variants failed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from synthetic import Failure, make_plan, make_results  # noqa: E402

failing = {
    "int8": Failure("convert", "failed", "parity: the denoiser's relative error is 0.41, the limit 0.2"),
    "fp16": Failure("benchmark", "failed", "was killed (signal 9); usually the machine ran out of memory"),
    "openvino-int8": Failure("score", "failed", "3 of 200 images are black (first: 0007-7.png)"),
}
print(make_results(sys.argv[1], make_plan(), failures=failing))
