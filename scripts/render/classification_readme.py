"""Documentation of a bundle that classifies pictures."""

from scripts.catalog.classification import ClassificationBundle, PictureRecipe
from scripts.render.bundle import NO_WEIGHTS
from scripts.render.classification_bundle import classification_configs
from scripts.render.documents import PHANTOM_ONLY, id_table, paragraph

# what ids mean here that mean something else where pictures are segmented
MEANINGS = {
    "dataset_dir": "folder of pictures in classes, or a CSV file; for inference any folder of pictures, or one picture",
    "split": "pictures to evaluate: training, validation or test",
    "allow_overlap": "accept a picture, a source, a group or a patient in two of training, validation and test",
    "check_data": "read every picture before the start, and name all that cannot be used",
    "window": "values of 16-bit pictures that become 0 and 255; null for those of data set or training, else 0, 65535",
    "img_size": "height and width of the crops that the network sees",
    "batch_size": "pictures per step",
    "warm_up": "share of the steps in which the learning rate rises before it falls as a cosine; 5 of 30 epochs",
    "patience": "epochs without a better validation after which training stops; 0 for never",
    "second_learning_rate": "0, which stops: the schedule sets the rate at every step, and would undo another",
    "pretrained": "file, or timm model name, with weights to start the encoder from",
    "cache_rate": "share of the pictures, in 8 bit at `short_side`, that is kept in memory",
}


def classification_readme(bundle: ClassificationBundle) -> str:
    """``docs/README.md`` of the bundle."""
    root, paper, run = f"bundles/{bundle.name}/configs", bundle.paper, "python -m monai.bundle run"
    presets = "\n".join(f"- `presets/{name}.json`: {_recipe(recipe)}." for name, recipe in bundle.presets.items())
    masked = "\n".join(f"- `presets/{name}.json`: {_masked(recipe)}." for name, recipe in bundle.masked_presets.items())
    return f"""# {bundle.title}

{bundle.description}

{paper.authors}. [{paper.title}]({paper.url}). {paper.venue}.

{paragraph(NO_WEIGHTS, PHANTOM_ONLY)}

## Data

`--dataset_dir` takes

- a folder per class: `class/picture`, or `training/class/picture`, `validation/class/picture`, `test/class/picture`;
- a CSV file, or a folder with a `labels.csv`, with the columns `image` (paths from where the file is), `class` and
  `split` (`training`, `validation`, `test`).

Without pictures for validation, a fifth of the training pictures of every class are kept for it, the same in every run.
Pictures with one `source`, `group` or number of `duplicates` in the table, as `python -m scripts.corpus` writes it, and
those of one patient by their names stay together; given splits that divide them are refused.
Before the first batch every picture is read, and these are refused in one sentence: a picture that is missing or
damaged, a class without training pictures, the same picture in two splits or in two classes.

## Use

From the repository's root:

```bash
{run} training --config_file {root}/train.json
{run} --config_file "['{root}/train.json','{root}/evaluate.json']"
{run} --config_file {root}/inference.json --dataset_dir DIR
torchrun --nproc_per_node=2 -m monai.bundle run training \\
  --config_file "['{root}/train.json','{root}/multi_gpu_train.json']"
```

`evaluate.json` writes to `--output_dir`

- `results_strict.jsonl`: a record per picture and measure, top-1 and, of more than five classes, top-5; the log has the
  means with bootstrap intervals;
- `classes.csv`: the share of right answers of every class, and of all, with Wilson's interval;
- `confusion.csv` and `confusion.png`: what is taken for what;
- `misclassified.png`: the wrong answers, the surest first.

`inference.json` reads every picture once before it starts, and names all that cannot be used. At its end it writes
`classes.csv`: the class of every picture and the probabilities of all classes.

Both take the size, the network and the names of the classes from the record beside the weights (`models/model.json`),
so that `--ckpt_path` is all that another checkpoint needs. Without the record `inference.json` calls the classes
"class 0", "class 1", ...; `--num_classes` says how many there are.

## Recipes

`train.json`: {_recipe(bundle.default)}. Overlays:

{presets}

```bash
{run} training --config_file "['{root}/train.json','{root}/presets/from_scratch.json']" --dataset_dir DIR
{run} training --config_file "['{root}/train.json','{root}/presets/from_scratch.json']" --dataset_dir DIR \\
  --depths "[2,2,2,2]" --img_size "[112,112]" --short_side 112 --accumulation_steps 4
{run} training --config_file "['{root}/train.json','{root}/presets/fine_tuned.json']" --dataset_dir DIR \\
  --pretrained swin_tiny_patch4_window7_224
{run} training --config_file "['{root}/train.json','{root}/presets/fine_tuned.json']" --dataset_dir DIR \\
  --encoder_name tf_efficientnet_lite0 --pretrained tf_efficientnet_lite0
```

Any size will do: 112 pixels give the Swin Transformer grids of 28, 14, 7 and 4 tokens, where merging pads the odd side
of 7 by one and a grid no longer than the window of 7 is one window. Position biases keep their size, so that the
weights fit the segmentation networks at any size.

## Without labels

`simmim.json` trains the Swin encoder as in SimMIM ([Xie et al., CVPR 2022](https://arxiv.org/abs/2111.09886)):
patches of a picture are hidden, and a linear layer paints what they hide, the better the more the encoder has
understood. It takes what `train.json` takes, a folder with a `dataset.json` (the pictures of `training` and
`validation`), any tree of folders with pictures, or a CSV file with a column `image` for pictures from many places,
which `python -m scripts.corpus join` writes. Pictures of `test` and copies of them are never taken, and copies of
others are left out.

```bash
{run} training --config_file {root}/simmim.json
{run} training --config_file "['{root}/simmim.json','{root}/presets/simmim.json']" --dataset_dir DIR
{run} training --config_file "['{root}/train.json','{root}/presets/from_scratch.json']" --dataset_dir LABELLED \\
  --pretrained bundles/{bundle.name}/models/simmim/model.pt
```

`simmim.json`: {_masked(bundle.masked)}. Overlays:

{masked}

Its files have folders of their own, `models/simmim` and `eval/simmim`, where `painted.png` shows original, what the
network saw and what it painted, after every validation. At 112 pixels there are 4 x 4 patches of 32, of which the last
row and column are cut. It is a config of this bundle and no bundle of its own, because it trains this bundle's encoder
and nothing else: what it paints is of no use. `--resume true` and `multi_gpu_train.json` are as for `train.json`.

## From here to segmentation

`models/model.pt`, or `models/simmim/model.pt`, goes into Swin-Unet, CS-UNet, HiFormer and TransDeepLab by
`--pretrained`: into the encoder and, where the authors do so, from the encoder's blocks into the decoder's. A network
with fewer blocks takes the first ones. A convolutional encoder goes into CS-UNet's, whose `encoder_name` is "tu-" and
the name here. The log says what became of every tensor.

```bash
{run} training --config_file bundles/swin_unet/configs/train.json --pretrained bundles/{bundle.name}/models/model.pt
{run} training --config_file bundles/cs_unet/configs/train.json --encoder_name tu-resnet50 \\
  --window_size 7 --pretrained "['SWIN/model.pt','RESNET50/model.pt']"
```

## Ids

Every id below is an option: `--epochs 3`, `--img_size "[112,112]"`. A key that no config file has is refused.

{id_table(classification_configs(bundle), bundle.options | MEANINGS, ("simmim",))}
"""


def _masked(recipe: PictureRecipe) -> str:
    extra = recipe.extra
    return (
        f"{recipe.img_size} x {recipe.img_size} pixels, {extra['mask_ratio']:.0%} of the patches of "
        f"{extra['mask_size']} pixels hidden, {_schedule(recipe)}, gradients clipped to {extra['max_grad_norm']:g}; "
        f"after {recipe.source}"
    )


def _recipe(recipe: PictureRecipe) -> str:
    stop = f", stopped after {recipe.extra['patience']} epochs without improvement" if recipe.extra["patience"] else ""
    return (
        f"{recipe.img_size} x {recipe.img_size} pixels, {_schedule(recipe)}, label smoothing "
        f"{recipe.extra['label_smoothing']:g}{stop}; after {recipe.source}"
    )


def _schedule(recipe: PictureRecipe) -> str:
    return (
        f"Swin blocks {recipe.options['depths']}, {recipe.epochs} epochs, batch {recipe.batch_size}, AdamW at "
        f"{recipe.learning_rate:g} with warm-up and cosine decay, weight decay {recipe.weight_decay:g}"
    )
