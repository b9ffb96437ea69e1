// A button on each block of code that copies it.
for (const block of document.querySelectorAll("div.highlight")) {
  const button = Object.assign(document.createElement("button"), {type: "button", className: "copy", textContent: "Copy"});
  button.setAttribute("aria-label", "copy this code");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.querySelector("pre").innerText);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(block.querySelector("pre"));
      button.textContent = "Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  block.append(button);
}
