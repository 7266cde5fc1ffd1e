"""Progress for eyes: a bar on a terminal, whole lines under a launcher or in a file."""

import sys
from typing import Any

from tqdm import tqdm

from hvd_yolo.closed_output import mute_closed


class Console:
    """Writes to standard output. Launchers prefix each line with its rank and tear a bar, even on a
    terminal."""

    def __init__(self, total_updates: int, is_launched: bool) -> None:
        self._total = total_updates
        self._bar: tqdm | None = None
        if sys.stdout.isatty() and not is_launched:
            self._bar = tqdm(
                total=total_updates, unit="update", dynamic_ncols=True, file=sys.stdout
            )

    def say(self, message: str) -> None:
        """The message as it is, on lines of its own."""
        if self._bar is None:
            try:
                # In one piece: loggers speak from threads of their own.
                print(f"{message}\n", end="", flush=True)
            except BrokenPipeError:
                # A run does not end with `| head`; its files tell the same.
                if not mute_closed():
                    raise
        else:
            self._bar.write(message)

    def train(self, line: dict[str, Any], seconds_per_update: float) -> None:
        """A train line of metrics.jsonl in one short line, with the time left."""
        terms = " ".join(f"{name} {value:.3f}" for name, value in line["losses"].items())
        talk = f"  comm wait {line['comm_wait']:.0%}" if line["sent_bytes"] else ""
        text = (
            f"epoch {line['epoch']:.2f}  loss {line['loss']:.3f} ({terms})  lr {line['lr']:.2e}  "
            f"{line['images_per_s']:.1f} img/s  data wait {line['data_wait']:.0%}{talk}"
        )
        if self._bar is not None:
            self._bar.n = line["step"]
            self._bar.set_description_str(text, refresh=True)
            return
        left = duration(seconds_per_update * (self._total - line["step"]))
        self.say(f"update {line['step']}/{self._total}  {text}  {left} left")

    def evaluation(self, line: dict[str, Any], seconds: float) -> None:
        """An eval line of metrics.jsonl in one short line."""
        loss = f"  val loss {line['val_loss']:.3f}" if line.get("val_loss") is not None else ""
        if line["AP"] is None:
            scores = "AP undefined: no objects to score against"
        else:
            scores = (
                f"AP {line['AP']:.4f}  AP50 {line['AP50']:.4f}  AP75 {line['AP75']:.4f}  "
                f"precision {line['precision']:.3f}  recall {line['recall']:.3f} (at score "
                f"{line['threshold']:.3f})"
            )
        self.say(f"epoch {line['epoch']:.2f}  {scores}{loss}  in {seconds:.1f} s")

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """As a clock shows it: 0:09, 2:30:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
