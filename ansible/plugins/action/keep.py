"""Keep what a host replied, on the controller: the one step for which core would have to run a module for each host."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

_TEXT = {"type": "str", "default": ""}
_FLAG = {"type": "bool", "default": False}
_SHORT = 2000


class ActionModule(ActionBase):
    """Writes the result of a raw task, as it is, for `hostcheck fleet import`; contacts no host."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Write `PATH/replies/DIGEST.json` as a whole or not at all."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            {
                "path": {"type": "path", "required": True},
                "most": {"type": "int", "required": True},
                "stdout": _TEXT,
                "stderr": _TEXT,
                "msg": _TEXT,
                "unreachable": _FLAG,
                "timedout": _FLAG,
            }
        )
        if self._task.check_mode:
            return {"changed": False, "skipped": True}
        # Base64 in lines, through a terminal, is at most 1.4 times as long.
        too_much = len(given["stdout"]) > given["most"] * 7 // 5 + 65536
        reply = {
            "host": str((task_vars or {})["inventory_hostname"]),
            "stdout": "" if too_much else given["stdout"],
            "stderr": given["stderr"][:_SHORT],
            "msg": given["msg"][:_SHORT],
            "unreachable": given["unreachable"],
            "timedout": given["timedout"],
            "too_much": too_much,
        }
        try:
            size = _write(Path(given["path"], "replies"), reply)
        except OSError as problem:
            raise AnsibleActionFail(f"{problem.filename or given['path']}: {problem.strerror}") from None
        return {"changed": False, "bytes": size}


def _write(folder, reply):
    data = json.dumps(reply).encode("ascii")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(data)
        Path(temporary).replace(folder / f"{hashlib.sha256(reply['host'].encode()).hexdigest()}.json")
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return len(data)
