"""Show: pictures, sliders, and an explorer that needs no kernel."""
