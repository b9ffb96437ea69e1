// The explorer where there is a kernel: how `mount` talks to the traits in widgets.py. `at`, where the sliders stand, goes both
// ways, once a frame at most.
export default {
  async render({model, el}) {
    const host = el.appendChild(Object.assign(document.createElement("div"), {className: "stn-explorer"}));
    const explorer = await mount(host, {...model.get("options"), start: model.get("at")}, (at, aspect, source) => {
      model.set({at, aspect, source});
      model.save_changes();
    });
    const follow = () => explorer.set(model.get("at"));
    model.on("change:at", follow);
    return () => model.off("change:at", follow);
  },
};
