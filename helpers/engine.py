"""The papermill engine of chapters: a cell that lacks rows which a run was not asked for does not end the chapter."""

from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from helpers.scratch import write_whole
from helpers.selection import tell_at, told

NAME = "book"


class ChapterClient(PapermillNotebookClient):
    """Executes cells one after another.

    Once an experiment is missing that was not asked for, cells may fail for want of it: what they say becomes a line of text.
    When all that were asked for are done, the chapter ends there. Where one of these has failed, its cell ends the chapter. That
    all were reached is for `chapters.execute` to see.
    """

    def __init__(self, *arguments, events: Path, asked: frozenset[str] | None, written: Path, **options):
        super().__init__(*arguments, **options)
        self.events, self.asked, self.written = events, asked, written

    def papermill_execute_cells(self) -> None:
        try:
            self._execute_cells()
        except BaseException:  # a kernel that died, Ctrl-C: papermill writes the notebook where a cell fails
            write_whole(self.written, nbformat.writes(self.nb))
            raise

    def _execute_cells(self) -> None:
        for index, cell in enumerate(self.nb.cells):
            if self._all_is_done():
                break
            try:
                self.nb_man.cell_start(cell, index)
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                if not self._for_want_of_rows():
                    self.nb_man.cell_exception(cell, cell_index=index, exception=error)
                    break
                words = f"left out: {error.ename}: {error.evalue}\n"
                tell_at(self.events, "left out", f"{error.ename}: {error.evalue}")
                cell.outputs = [o for o in cell.outputs if o.output_type != "error"]
                cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=words))
            finally:
                self.nb_man.cell_complete(cell, cell_index=index)

    def _for_want_of_rows(self) -> bool:
        return bool(told(self.events, "missing")) and not told(self.events, "failed")

    def _all_is_done(self) -> bool:
        done = {event["name"] for event in told(self.events, "done")}
        return bool(self.asked) and self.asked <= done and bool(told(self.events, "missing"))


class ChapterEngine(NBClientEngine):
    """Papermill's own, with this client; takes `events`, the file of what the kernel tells, `asked`, and `written`, its file."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, *, start_timeout=60, execution_timeout=None, **options):
        own = ("log_output", "stdout_file", "stderr_file", "input_path")
        options = {name: value for name, value in options.items() if name not in own}
        client = ChapterClient(
            nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, timeout=execution_timeout, **options
        )
        return client.execute()


papermill_engines.register(NAME, ChapterEngine)
