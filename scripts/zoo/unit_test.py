"""The file in the style of the model zoo's ``ci/unit_tests`` that runs a bundle's configs on data of its own."""

from scripts.catalog.bundles import Bundle
from scripts.zoo.style import formatted, with_sorted_imports

SIDE = 64  # pixels of the images
TEMPLATE = """# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

import json
import os
import shutil
import tempfile
import unittest

{imports}
import numpy as np
from monai.bundle import ConfigWorkflow
from utils import check_workflow

BUNDLE_ROOT = "models/{name}"
CLASSES = {classes}
LISTS = {{"training": 2, "validation": 1, "test": 1}}


def test_order(test_name1, test_name2):
    def get_order(name):
        if "train" in name:
            return 1
        if "infer" in name:
            return 2
        return 3

    return get_order(test_name1) - get_order(test_name2)


class Test{title}(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.dataset_dir = os.path.join(self.folder, "data")
        os.makedirs(self.dataset_dir)
        content = {{"name": "random", "labels": {{str(i): "class %d" % i for i in range(CLASSES)}}}}
        for part, count in LISTS.items():
            content[part] = [self.write("%s_%d" % (part, i)) for i in range(count)]
        with open(os.path.join(self.dataset_dir, "dataset.json"), "w") as file:
            json.dump(content, file)

    def tearDown(self):
        shutil.rmtree(self.folder)

    def write(self, name):
        image, label = name + "_image{suffix}", name + "_label{suffix}"
        {write_image}
        {write_label}
        return {{"image": image, "label": label}}

    def override(self, **others):
        # the weights of the bundle stay as they are
        written = {{key: os.path.join(self.folder, key) for key in ("ckpt_dir", "output_dir", "log_dir")}}
        return {{"bundle_root": BUNDLE_ROOT, "dataset_dir": self.dataset_dir, **written, **others}}

    def workflow(self, workflow_type, names, **override):
        return ConfigWorkflow(
            workflow_type=workflow_type,
            config_file=[os.path.join(BUNDLE_ROOT, "configs", name) for name in names],
            logging_file=os.path.join(BUNDLE_ROOT, "configs/logging.conf"),
            meta_file=os.path.join(BUNDLE_ROOT, "configs/metadata.json"),
            **override,
        )

    def test_train_eval_config(self):
        override = self.override(epochs=1, val_interval=1, batch_size=2, cache_rate=0.0)
        check_workflow(self.workflow("train", ["train.json"], **override), check_properties=True)
        # override train.json, thus set the workflow to "train" rather than "eval"
        check_workflow(self.workflow("train", ["train.json", "evaluate.json"], **override), check_properties=True)

    def test_infer_config(self):
        override = self.override(**{{"handlers#0#_disabled_": True}})  # do not load weights
        del override["log_dir"]
        check_workflow(self.workflow("infer", ["inference.json"], **override), check_properties=True)


if __name__ == "__main__":
    loader = unittest.TestLoader()
    loader.sortTestMethodsUsing = test_order
    unittest.main(testLoader=loader)
"""


def unit_test(bundle: Bundle, channels: int) -> str:
    """``ci/unit_tests/test_<name>.py``: trains, evaluates and infers, and checks the properties of the configs.

    Args:
        bundle: as it is packed, with preset and classes of its training.
        channels: of the images that its network takes.
    """
    preset = bundle.default
    path = "os.path.join(self.dataset_dir, {})"
    if preset.volumes:
        suffix, shape = ".nii.gz", (SIDE, SIDE, 3)
        imports = "import nibabel as nib"
        low, high, kind = -125, 275, "np.int16"
        save = "nib.save(nib.Nifti1Image({array}, np.eye(4)), {path})"
    else:
        suffix, shape = ".png", (SIDE, SIDE)
        imports = "from PIL import Image"
        low, high, kind = 0, 255, "np.uint8"
        save = "Image.fromarray({array}).save({path})"
    image_shape = (*shape, channels) if channels > 1 else shape
    image = f"np.random.randint({low}, {high}, {image_shape}).astype({kind})"
    label = f"np.random.randint(0, CLASSES, {shape}).astype(np.uint8)"
    text = TEMPLATE.format(
        name=bundle.name,
        title="".join(part.title() for part in bundle.name.split("_")),
        classes=len(preset.classes) + 1,
        imports=imports,
        suffix=suffix,
        write_image=save.format(array=image, path=path.format("image")),
        write_label=save.format(array=label, path=path.format("label")),
    )
    return with_sorted_imports(formatted(text))
