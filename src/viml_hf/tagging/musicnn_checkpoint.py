"""MusiCNN's networks out of the TensorFlow checkpoints of its package."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from viml_hf.errors import ViMLError
from viml_hf.modeling.configuration_musicnn import MusicnnConfig
from viml_hf.modeling.modeling_musicnn import MusicnnForMusicTagging
from viml_hf.tagging.tensorflow_checkpoint import read_tensorflow_checkpoint

# The labels of each network by the name of its folder, in the order of its outputs.
LABELS = {
    "MTT_musicnn": "guitar, classical, slow, techno, strings, drums, electronic, rock, fast, piano, ambient, beat, "
    "violin, vocal, synth, female, indian, opera, male, singing, vocals, no vocals, harpsichord, loud, "
    "quiet, flute, woman, male vocal, no vocal, pop, soft, sitar, solo, man, classic, choir, voice, new "
    "age, dance, male voice, female vocal, beats, harp, cello, no voice, weird, country, metal, female "
    "voice, choral",
    "MSD_musicnn": "rock, pop, alternative, indie, electronic, female vocalists, dance, 00s, alternative rock, jazz, "
    "beautiful, metal, chillout, male vocalists, classic rock, soul, indie rock, Mellow, electronica, "
    "80s, folk, 90s, chill, instrumental, punk, oldies, blues, hard rock, ambient, acoustic, "
    "experimental, female vocalist, guitar, Hip-Hop, 70s, party, country, easy listening, sexy, catchy, "
    "funk, electro, heavy metal, Progressive rock, 60s, rnb, indie pop, sad, House, happy",
}
INDEX, DATA = ".index", ".data-00000-of-00001"


def read_musicnn(place: str | Path) -> dict[str, MusicnnForMusicTagging]:
    """The networks in a wheel or folder by the name of their folder, a key of `LABELS`; none is an error."""
    networks = {}
    for name, index, data in _checkpoints(Path(place)):
        try:
            networks[name] = network_of(read_tensorflow_checkpoint(index, data), LABELS[name].split(", "))
        except ViMLError as error:
            raise ViMLError(f"{place}: {name}: {error}") from error
    if not networks:
        raise ViMLError(
            f"{place}: no {' and no '.join(LABELS)} there; give the wheel of the package musicnn (`pip download "
            "--no-deps musicnn`), or a folder that it is unpacked in"
        )
    return networks


def _checkpoints(place: Path) -> Iterator[tuple[str, bytes, bytes]]:
    for name in LABELS:
        if place.is_file():
            try:
                with zipfile.ZipFile(place) as wheel:
                    found = [path for path in wheel.namelist() if path.endswith(f"{name}/{INDEX}")]
                    for path in found[:1]:
                        yield name, wheel.read(path), wheel.read(path.removesuffix(INDEX) + DATA)
            except (zipfile.BadZipFile, KeyError) as error:
                raise ViMLError(f"{place}: no whole wheel ({error}); fetch it again") from error
        else:
            folders = [place] if place.name == name else sorted(place.rglob(name))
            for folder in [one for one in folders if (one / INDEX).is_file()][:1]:
                if not (folder / DATA).is_file():
                    raise ViMLError(f"{folder / DATA}: missing; unpack the wheel again")
                yield name, (folder / INDEX).read_bytes(), (folder / DATA).read_bytes()


def network_of(variables: dict[str, np.ndarray], labels: list[str]) -> MusicnnForMusicTagging:
    """The network of these variables, which also tell its sizes; one that is missing or not finite is an error."""
    try:
        kernels = [variables[_numbered("conv2d", number)] for number in range(8)]
        config = MusicnnConfig(
            timbral_heights=[kernel.shape[1] for kernel in kernels[:2]],
            timbral_channels=kernels[0].shape[3],
            temporal_lengths=[kernel.shape[0] for kernel in kernels[2:5]],
            temporal_channels=kernels[2].shape[3],
            mid_channels=kernels[5].shape[3],
            hidden_size=variables["dense/kernel"].shape[1],
            id2label=dict(enumerate(labels)),
        )
        network = MusicnnForMusicTagging(config).eval()
        network.load_state_dict(_state(variables, kernels))
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        raise ViMLError(f"its variables are not MusiCNN's ({str(error).splitlines()[0]}); give its own") from error
    for name, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise ViMLError(f"{name} is not finite; fetch the file again")
    return network


def _state(variables: dict[str, np.ndarray], kernels: list[np.ndarray]) -> dict[str, torch.Tensor]:
    convolutions = [*(f"front.{number}" for number in range(5)), *(f"middle.{number}" for number in range(3))]
    state = {}
    for number, (name, kernel) in enumerate(zip(convolutions, kernels, strict=True)):
        # The bands of the middle ones are our channels.
        order = (3, 1, 0, 2) if name.startswith("middle") else (3, 2, 0, 1)
        state[f"{name}.conv.weight"] = kernel.transpose(order)
        state[f"{name}.conv.bias"] = variables[_numbered("conv2d", number, "bias")]
    norms = ["input_norm", *(f"{name}.norm" for name in convolutions), "pooled_norm", "dense_norm"]
    for number, name in enumerate(norms):
        ours = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        for part, theirs in ours.items():
            state[f"{name}.{part}"] = variables[_numbered("batch_normalization", number, theirs)]
        state[f"{name}.num_batches_tracked"] = np.zeros((), np.int64)
    for number, name in enumerate(("dense", "classifier")):
        state[f"{name}.weight"] = variables[_numbered("dense", number)].T
        state[f"{name}.bias"] = variables[_numbered("dense", number, "bias")]
    return {name: torch.from_numpy(np.array(values)) for name, values in state.items()}


def _numbered(layer: str, number: int, part: str = "kernel") -> str:
    """TensorFlow's name of a variable: the first layer of a kind has no number."""
    return f"{layer}_{number}/{part}" if number else f"{layer}/{part}"
