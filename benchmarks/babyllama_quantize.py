"""BabyLlama in fewer bits: KL to the original, nats a token, bytes, and decoded tokens a second beside float32.

    python benchmarks/babyllama_quantize.py                       every target that is installed
    python benchmarks/babyllama_quantize.py --quality             no timing
    python benchmarks/babyllama_quantize.py --rows W3A16 --targets onnxruntime

Calibrated on what the model itself writes (sampled, seed 0), read on the two stories of its sample text, 256 tokens in
a window, every weight in the bits that the row says, slower or not. KL is the mean of KL(original || quantized) over
tokens; nats those of the token that follows. Decoding is greedy behind 31 tokens of a story, one token a call with the
keys and values of those before; tokens a second are of rounds in turns, the ratio to float32 on the same target a
median of pairs with a 95 % bootstrap interval.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tersor
import torch
from tersor.benchmarks._common import SEED, options, publish
from tersor.benchmarks.speedup import WORKLOADS
from tersor.driver.timing import paired
from tersor.examples import babyllama
from tersor.examples.data import Feeds, Run
from tersor.examples.source import torch_run

FP32 = "float32"
#: What each row adds to raising.
ROWS = {
    FP32: "",
    "W8A8 dynamic": "quantize-dynamic",
    "W8A8 static": "quantize-static",
    "W8A16": "quantize-weights{bits=8, group=0}",
    "W4A16 rtn": "quantize-weights{bits=4, group=32}",
    "W4A16": "quantize-weights{bits=4, group=32, algorithm=gptq, clip=true, refine=true}",
    "W3A16 rtn": "quantize-weights{bits=3, group=32}",
    "W3A16": "quantize-weights{bits=3, group=32, algorithm=gptq, clip=true, refine=true}",
}
TARGETS = ("onnxruntime", "openvino", "inductor")
#: Sampled texts to calibrate on, and tokens of each and of what is read.
TEXTS, WINDOW = 32, 256


def main() -> None:
    parser = options(__doc__ or "", seconds=30.0)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--quality", action="store_true", help="leave the timing out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = list(dict.fromkeys([FP32, *given.rows]))
    publish("babyllama_quantize", "BabyLlama in fewer bits", list(_rows(rows, given)), given)


def _rows(names: Sequence[str], given: Namespace) -> Iterator[dict[str, object]]:
    sampled, windows = _sampled(), _windows()
    source = babyllama.source()
    original = torch_run(source.module)
    wanted = [_log_probabilities(original, window) for window in windows]
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    for target in given.targets:
        found = {
            name: _answer(model.clone(), f"{target}{{threads={given.threads}}}", ROWS[name], sampled, windows, wanted)
            for name in names
        }
        speeds = {} if given.quality else _speeds(found, target, sampled, given)
        yield from ({"": name, "target": target} | found[name] | speeds.get(name, {}) for name in names)


def _answer(
    model: object, target: str, passes: str, data: Sequence[Feeds], windows: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
) -> dict[str, object]:  # fmt: skip
    start = time.perf_counter()
    try:
        artifact = tersor.compile(model, target=target, passes=passes, data=data, verify="off", size_first=True)
    except tersor.TersorError as error:
        return {"error": str(error).split("\n")[0][:100]}
    seconds = time.perf_counter() - start
    kls, nats = [], []
    for window, before in zip(windows, wanted, strict=True):
        after = _log_probabilities(artifact.session.run, window)
        kls.append((np.exp(before) * (before - after)).sum(-1))
        nats.append(-after[np.arange(len(after)), window[1:]])
    size = sum(file["bytes"] for file in artifact.manifest["files"] if file["role"] == "model")
    return {
        "kB": round(size / 1e3),
        "made in s": round(seconds, 1),
        "KL": round(float(np.concatenate(kls).mean()), 5),
        "nats a token": round(float(np.concatenate(nats).mean()), 4),
    }


def _speeds(
    found: Mapping[str, Mapping[str, object]], target: str, sampled: Sequence[Feeds], given: Namespace
) -> dict[str, dict[str, object]]:
    """Of one token a call: tokens a second, and how many times those of float32."""
    workload = WORKLOADS["babyllama decode"]
    module, args, dynamic = workload.source()
    model = tersor.load(module, args=args, dynamic=dynamic)
    config = babyllama.module().config
    past = np.zeros((1, config.kv_heads, 0, config.dim // config.heads), np.float32)
    empty = {f"past_{kind}_{layer}": past for kind in ("keys", "values") for layer in range(config.layers)}
    data = [{"tokens": feeds["tokens"][:1, : config.context // 4], **empty} for feeds in sampled]
    runs: dict[str, Run] = {}
    for name in found:
        if "error" not in found[name]:
            artifact = tersor.compile(
                model.clone(),
                target=f"{target}{{threads={given.threads}}}",
                passes=ROWS[name],
                data=data,
                verify="off",
                size_first=True,
            )
            runs[name] = artifact.session.run_unchecked
    if FP32 not in runs:
        return {}
    # what the original decodes: the first call has no past, which a package of inductor does not take
    original = tersor.compile(model.clone(), target="onnxruntime", verify="off").session
    steps = [feeds for feeds in workload.items(original.run) if feeds["tokens"].shape[1] == 1]
    timings = paired(runs, steps, rounds=50, budget_seconds=given.seconds)
    return {
        name: {
            "tokens a second": round(1 / float(np.median(timings.seconds[name]))),
            "x float32": str(timings.ratio(FP32, name)),
        }
        for name in runs
    }


def _sampled() -> list[Feeds]:
    """Texts that the model writes, a few in a batch."""
    model = babyllama.module()
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.full((TEXTS, 1), babyllama.START)
    with torch.inference_mode():
        while tokens.shape[1] < WINDOW:
            odds = torch.softmax(model(tokens)["logits"][:, -1], -1)
            tokens = torch.cat([tokens, torch.multinomial(odds, 1, generator=generator)], 1)
    return [{"tokens": part.numpy()} for part in tokens.split(4)]


def _windows() -> list[np.ndarray]:
    """The stories' tokens, each window begun as a text is."""
    characters = babyllama.Characters()
    found = []
    for story in babyllama.stories():
        tokens = characters.encode(story)
        starts = range(0, len(tokens), WINDOW)
        found += [np.array([babyllama.START, *tokens[start : start + WINDOW]], np.int64) for start in starts]
    return [window for window in found if len(window) > WINDOW // 2]


def _log_probabilities(run: Run, window: np.ndarray) -> np.ndarray:
    """Of each token behind those before it, [tokens, vocabulary], in float64."""
    (logits,) = run({"tokens": window[None, :-1]}).values()
    wide = logits[0].astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    found: np.ndarray = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return found


if __name__ == "__main__":
    main()
