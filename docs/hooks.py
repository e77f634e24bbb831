"""Makes the page of settings from the configurations of all models: it cannot be out of date."""

from diffrec_jax.config import part_classes
from diffrec_jax.registry import MODELS
from diffrec_jax.settings import fields_of

PARTS = {
    "training": ("Training", "Of every model that is trained."),
    "recency": ("Rows: values and recency weights", "Of every model that reads a row."),
    "groups": ("Item groups", "Of the latent models."),
    "evaluation": ("Evaluation", "Of every model."),
}


def _table(config_class: type) -> list[str]:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for field in fields_of(config_class).values():
        known = field.setting
        extra = [f"One of {', '.join(known.choices)}."] if known.choices else []
        extra += [f"Has to be {known.range_text()}."] if known.range_text() else []
        extra += [f"Released name: {', '.join(known.aliases)}."] if known.aliases else []
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        meaning = " ".join([known.help, *extra]).replace("|", "\\|")
        lines.append(f"| `{field.name}` | `{default}` | {meaning} |")
    return lines


def settings_page() -> str:
    """In Markdown: a table for each model family, and one for each part that models share."""
    by_class: dict[type, list[str]] = {}
    for name, family in MODELS.items():
        by_class.setdefault(family.config_class, []).append(name)
    lines = []
    for config_class, names in by_class.items():
        titles = ", ".join(MODELS[name].title for name in names)
        asked_for = ", ".join(f"`{name}`" for name in names)
        lines += ["", f"## {titles}", "", f"Model {asked_for}, configured by `{config_class.__name__}`.", ""]
        lines += _table(config_class) if fields_of(config_class) else ["It has no settings."]
    classes = {part: own for family in MODELS.values() for part, own in part_classes(family).items()}
    for part, (title, of) in PARTS.items():
        lines += ["", f"## {title}", "", f"{of} `{classes[part].__name__}`.", "", *_table(classes[part])]
    return "\n".join(lines)


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    """Called by MkDocs for each page."""
    del kwargs
    return (
        markdown.replace("<!-- settings -->", settings_page())
        if page.file.src_uri == "reference/settings.md"
        else markdown
    )
