"""A real kernel whose sliders are moved without a page, message by message: what the tests and the timings of sliders share."""

from jupyter_client.manager import start_new_kernel


class Kernel:
    """`with Kernel() as kernel`: a fresh IPython kernel of this Python, started in the current folder."""

    def __enter__(self):
        self.manager, self.client = start_new_kernel(kernel_name="python3")
        return self

    def __exit__(self, *error):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code: str) -> str:
        """Run a cell; what it prints. RuntimeError, with the traceback, where it fails."""
        messages = self.until_idle(self.client.execute(code))
        for message in messages:
            if message["msg_type"] == "error":
                raise RuntimeError("\n".join(message["content"]["traceback"]))
        return "".join(message["content"]["text"] for message in messages if message["msg_type"] == "stream")

    def move(self, model: str, **state) -> str:
        """What a page sends when a slider moves: kernel.move(slider.model_id, value=30). The message's id."""
        data = {"method": "update", "state": state, "buffer_paths": []}
        message = self.client.session.msg("comm_msg", {"comm_id": model, "data": data})
        self.client.shell_channel.send(message)
        return message["header"]["msg_id"]

    def until_idle(self, ident: str) -> list[dict]:
        """All that the kernel sends in answer to one message, up to its "idle"."""
        answers = []
        while not answers or answers[-1]["content"].get("execution_state") != "idle":
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") == ident:
                answers.append(message)
        return answers

    def bytes_of(self, messages: list[dict]) -> int:
        """How much goes over the wire for these messages."""
        parts = ("header", "parent_header", "metadata", "content")
        words = sum(len(self.client.session.pack(message[part])) for message in messages for part in parts)
        return words + sum(memoryview(buffer).nbytes for message in messages for buffer in message["buffers"])


def updates(messages: list[dict]) -> dict[str, dict]:
    """{model: what it was last told}, binary values included."""
    state = {}
    for message in messages:
        data = message["content"].get("data", {})
        if message["msg_type"] == "comm_msg" and data.get("method") == "update":
            mine = state.setdefault(message["content"]["comm_id"], {})
            mine.update(data["state"])
            for (key, *_), buffer in zip(data.get("buffer_paths", []), message["buffers"], strict=True):
                mine[key] = bytes(buffer)
    return state
