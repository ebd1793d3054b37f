"""Settings of the site; its sources are made by pages.py."""

project = html_title = "reasoning_distill"
author = copyright = "The reasoning_distill maintainers"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx-mathjax-offline"]
nb_execution_mode = "off"
nb_code_prompt_show, nb_code_prompt_hide = "Solution", "Fold the solution"  # the only cells that are folded
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_ipywidgets_js = {}
html_theme = "sphinx_book_theme"
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False, "home_page_in_toc": True,
                      "navbar_persistent": [], "repository_url": "https://github.com/reasoning-distill/reasoning_distill",
                      "repository_branch": "main", "launch_buttons": {"colab_url": "https://colab.research.google.com"}}
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_favicon = "_static/favicon.svg"
copybutton_selector = "div:not(.output) > div.highlight pre"
