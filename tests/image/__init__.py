import sys
from pathlib import Path

# The image's code is no package of the panel's: it is found by its own folder, as in the image.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "inference_image"))
