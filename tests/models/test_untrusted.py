"""Nothing in a model's file runs without trust: each file here would leave a marker behind if something of it ran."""

import io
import json
import os
import pickle
import re
import struct
import zipfile

import pytest
import torch
from tiny_network import ARGUMENTS, tiny_unet
from torch import nn

from lesionwise.errors import ModelFileError
from lesionwise.models import zoo
from lesionwise.models.archive import Archive, pickled_names
from lesionwise.models.checkpoint import read_saved
from lesionwise.models.lstai import read_member
from lesionwise.models.nnunet import read_checkpoint
from lesionwise.models.statedict import save_model
from lesionwise.segmenter import Spec

pytestmark = pytest.mark.filterwarnings("ignore")
SPEC = '[spec]\nname = "x"\nchannels = ["FLAIR", "T1w"]\nwindow = [16, 16, 16]\nspacing_mm = "scan"\n'
ADVICE = re.compile("weights_only|safe_globals|get_unsafe|re-running|trusted source|allowlist", re.IGNORECASE)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def rewritten(source, target, change, twice=()):
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as new:
        for name in read.namelist():
            data = read.read(name)
            new.writestr(name, change(name, data))
            if name in twice:
                new.writestr(name, data)


@pytest.fixture
def script(tmp_path):
    torch.jit.script(Net().eval()).save(str(tmp_path / "net.pt"))
    (tmp_path / "net.toml").write_text(SPEC)
    (tmp_path / "evil.toml").write_text(SPEC)
    with zipfile.ZipFile(tmp_path / "net.pt") as archive:
        code = next(n for n in archive.namelist() if n.endswith(".py") and b"    conv = self.conv" in archive.read(n))

    def inject(call, twice=False):
        def change(name, data):
            text = data.decode() if name == code else ""
            at = text.find("    conv = self.conv")
            return (text[:at] + f"    {call}\n" + text[at:]).encode() if at >= 0 else data

        rewritten(tmp_path / "net.pt", tmp_path / "evil.pt", change, twice=(code,) if twice else ())
        return tmp_path / "evil.pt"

    return inject


def test_a_harmless_script_is_read(script, tmp_path):
    assert zoo.load_model(tmp_path / "net.pt").network(torch.zeros(1, 2, 16, 16, 16)).shape == (1, 2, 16, 16, 16)


@pytest.mark.parametrize("call", ["ops.aten.save([x], {m})", "torch. save([x], {m})", "torch.save([x], {m})"])
def test_a_script_that_writes_a_file_is_refused_by_the_operator(script, tmp_path, call):
    marker = tmp_path / "marker"
    path = script(call.format(m=json.dumps(str(marker))))
    with pytest.raises(ModelFileError, match=r"the operator aten::save.*--trust") as caught:
        zoo.load_model(path).network(torch.zeros(1, 2, 16, 16, 16))
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    zoo.load_model(path, trust=True).network(torch.zeros(1, 2, 16, 16, 16))
    assert marker.exists(), "this file would not have run anything: it proves nothing"


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ("x = torch.mul(x, torch.from_file({m}))", "aten::from_file"),
        ("print({m})", "prim::Print"),
        ("x = torch.mul(x, torch.rand([1]))", "aten::rand"),
        ("x = ops.quantized.relu6(x)", "quantized::relu6"),
    ],
)
def test_what_is_not_known_as_harmless_is_named(script, tmp_path, call, kind):
    path = script(call.format(m=json.dumps(str(tmp_path / "marker"))))
    with pytest.raises(ModelFileError, match=f"the operator {kind}"):
        zoo.load_model(path)


def test_operators_in_other_methods_and_hooks_are_seen(tmp_path):
    class Sly(Net):
        @torch.jit.export
        def __len__(self) -> int:
            torch.save([torch.zeros(1)], "/nonexistent/marker")
            return 1

    torch.jit.script(Sly().eval()).save(str(tmp_path / "net.pt"))
    (tmp_path / "net.toml").write_text(SPEC)
    with pytest.raises(ModelFileError, match="the operator aten::save"):
        zoo.load_model(tmp_path / "net.pt")

    def hook(self, inputs: tuple[torch.Tensor], output: torch.Tensor):
        return output

    hooked = Net().eval()
    hooked.conv.register_forward_hook(hook)
    torch.jit.script(hooked).save(str(tmp_path / "net.pt"))
    with pytest.raises(ModelFileError, match="uses hooks"):
        zoo.load_model(tmp_path / "net.pt")


def test_a_script_whose_pickle_asks_for_other_classes_is_refused(script, tmp_path):
    stranger = pickle.dumps(Touch(tmp_path / "marker"), protocol=2)
    change = lambda name, data: stranger if name.endswith("/data.pkl") else data  # noqa: E731
    rewritten(tmp_path / "net.pt", tmp_path / "evil.pt", change)
    with pytest.raises(ModelFileError, match=r"would run on loading \(.*mkdir\)"):
        zoo.load_model(tmp_path / "evil.pt")
    foreign = b"c__torch__.torch.classes.dist_c10d\nStore\n."
    rewritten(
        tmp_path / "net.pt", tmp_path / "evil.pt", lambda name, data: foreign if name.endswith("/data.pkl") else data
    )
    with pytest.raises(ModelFileError, match=r"torch\.classes\.dist_c10d\.Store"):
        zoo.load_model(tmp_path / "evil.pt")
    assert not (tmp_path / "marker").exists()


def test_an_exported_program_is_read_with_trust_only(tmp_path):
    program = torch.export.export(Net().eval(), (torch.zeros(1, 2, 16, 16, 16),))
    torch.export.save(program, tmp_path / "net.pt2")
    buffer = io.BytesIO()
    torch.save(Touch(tmp_path / "marker"), buffer)
    change = lambda name, data: buffer.getvalue() if "sample_inputs" in name else data  # noqa: E731
    rewritten(tmp_path / "net.pt2", tmp_path / "evil.pt2", change)
    for name in ("net", "evil"):
        (tmp_path / f"{name}.toml").write_text(SPEC)
        with pytest.raises(ModelFileError, match="--trust"):
            zoo.load_model(tmp_path / f"{name}.pt2")
    assert not (tmp_path / "marker").exists()
    assert zoo.load_model(tmp_path / "net.pt2", trust=True).spec.name == "x"


def folder_with(tmp_path, **content):
    folder = save_model(
        tmp_path / "run", tiny_unet(), Spec("x", ("FLAIR", "T1w"), (16, 16, 16)),
        class_name="monai.networks.nets.UNet", arguments=ARGUMENTS,
    )  # fmt: skip
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": tiny_unet().state_dict(), **content}, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize("read", [zoo.load_model, read_member, read_checkpoint])
def test_a_pickled_object_is_refused_without_advice_to_trust_it(tmp_path, read):
    path = folder_with(tmp_path, extra=Touch(tmp_path / "marker"))
    with pytest.raises(ModelFileError, match=r"tensors and plain values alone, found objects of .*mkdir") as caught:
        read(path)
    assert not ADVICE.search(str(caught.value))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("read", [zoo.load_model, read_member, read_checkpoint])
@pytest.mark.parametrize("damage", ["twice", "case", "before", "after", "truncated", "empty"])
def test_archives_that_readers_may_read_differently_are_refused(tmp_path, read, damage):
    path = folder_with(tmp_path)
    whole = path.read_bytes()
    if damage in ("twice", "case"):
        member = next(n for n in zipfile.ZipFile(path).namelist() if n.endswith("data.pkl"))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(member.upper() if damage == "case" else member, b"other")
    else:
        path.write_bytes(
            {"before": b"#!/bin/sh\n" + whole, "after": whole + b"\0" * 9, "truncated": whole[:-400], "empty": b""}[
                damage
            ]
        )
    with pytest.raises(ModelFileError) as caught:
        read(path)
    said = {"twice": "twice", "case": "twice", "before": "directory", "after": "directory|damaged|weights"}
    assert re.search(said.get(damage, "damaged|truncated|empty"), str(caught.value))
    assert not ADVICE.search(str(caught.value))
    assert "\n" not in str(caught.value)


def test_an_archive_with_two_directories_is_refused(tmp_path):
    """One reader goes where the record points, another to what lies before the record."""
    one, two = tmp_path / "one.zip", tmp_path / "two.zip"
    for path, text in ((one, b"seen by one"), (two, b"seen by two")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", text)
    first, second = one.read_bytes(), two.read_bytes()
    record = bytearray(second[-22:])
    struct.pack_into("<L", record, 16, struct.unpack_from("<L", first[-22:], 16)[0])
    (tmp_path / "both.zip").write_bytes(first[:-22] + second[:-22] + bytes(record))
    assert zipfile.ZipFile(tmp_path / "both.zip").read("archive/data.pkl") == b"seen by two"
    with pytest.raises(ModelFileError, match="directory does not lie"):
        Archive.of(tmp_path / "both.zip")


def test_what_pytorch_writes_is_read(tmp_path):
    torch.save({"a": torch.arange(3), "b": 1.5, "c": "text"}, tmp_path / "a.pt")
    assert read_saved(tmp_path / "a.pt", what="x")["b"] == 1.5
    torch.save({"a": torch.arange(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_saved(tmp_path / "old.pt", what="x")["a"], torch.arange(3))
    archive = Archive.of(tmp_path / "a.pt")
    assert archive.holds_tensors
    assert not archive.holds_script
    assert Archive.of(tmp_path / "old.pt") is None


def test_names_in_a_pickle_are_listed_without_running_it(tmp_path):
    for protocol in range(5):
        content = pickle.dumps(Touch(tmp_path / "marker"), protocol=protocol)
        assert any(name.endswith("mkdir") or name == "?" for name in pickled_names(content))
    assert not (tmp_path / "marker").exists()
