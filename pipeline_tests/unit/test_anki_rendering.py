"""What a note shows: which fragments, as which HTML, and that Anki keeps it as it was sent."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from anki.collection import Collection
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.anki.contents import Content, Fragment, Sound
from pipeline.anki.rendering import TEMPLATES, ExportHash, Renderer, canonical, digest, sound_files
from pipeline.anki.store.errors import RenderError


def templates(folder: Path, front: str = "{{ content.title }}", back: str = "b") -> Path:
    """A folder of a user's own templates."""
    (folder / "front.html").write_text(front)
    (folder / "back.html").write_text(back)
    return folder


MD5 = "0" * 32


EXAMPLE_1 = Fragment(11, "ผมกินข้าว", "I eat rice.", "[pʰǒm kin kʰâːw]", None, Sound(101, MD5, 9))


EXAMPLE_2 = Fragment(12, "กินไหม", "Will you eat?", None, "colloquial", None)


EATING = Content(
    id=1,
    title="กิน (to eat)",
    content_type="vocabulary",
    language="thai",
    native_text="กิน",
    translation="to eat",
    ipa="[kin]",
    difficulty_level=1,
    tags=["food"],
    item=Fragment(10, "กิน", "to eat", "[kin]", None, Sound(100, MD5, 9)),
    examples=(EXAMPLE_1, EXAMPLE_2),
)


def test_a_whole_card() -> None:
    front, back = Renderer().render(EATING).fields
    assert front == (
        '<div class="native">กิน</div>\n<div class="ipa">[kin]</div>[sound:asset_100.mp3]'
    )
    assert back == (
        '<div class="translation">to eat</div>\n'
        '<div class="example">\n'
        '<div class="native">ผมกินข้าว [sound:asset_101.mp3]</div>\n'
        '<div class="ipa">[pʰǒm kin kʰâːw]</div><div class="body">I eat rice.</div>\n'
        "</div>\n"
        '<div class="example">\n'
        '<div class="native">กินไหม</div>\n'
        '<div class="body">Will you eat?</div>\n'
        '<div class="extra">colloquial</div></div>'
    )


def test_a_card_of_a_content_that_has_nothing() -> None:
    bare = replace(EATING, ipa="", item=None, examples=(), tags=None, difficulty_level=None)
    assert Renderer().render(bare).fields == (
        '<div class="native">กิน</div>',
        '<div class="translation">to eat</div>',
    )


def test_only_recordings_that_are_played_belong_to_a_note(tmp_path: Path) -> None:
    assert [sound.file for sound in Renderer().render(EATING).sounds] == [
        "asset_100.mp3",
        "asset_101.mp3",
    ]
    own = templates(tmp_path, "{{ item.sound }}{{ item.sound }}")
    assert Renderer(own).render(EATING).sounds == (Sound(100, MD5, 9),)


def test_texts_are_shown_as_they_are() -> None:
    evil = "<b>\"x\" & 'y'</b>[sound:evil.mp3][latex]x[/latex][$]y[/$][$$]z[/$$][anki:tts]"
    fragment = replace(EXAMPLE_1, native_text=evil, body_text=evil, ipa=evil, extra=evil)
    rendered = Renderer().render(
        replace(EATING, native_text=evil, translation=evil, ipa=evil, examples=(fragment,))
    )
    shown = (
        "&lt;b&gt;&#34;x&#34; &amp; &#39;y&#39;&lt;/b&gt;&#91;sound:evil.mp3]&#91;latex]x[/latex]"
        "&#91;$]y[/$]&#91;$$]z[/$$]&#91;anki:tts]"
    )
    assert rendered.fields == (
        f'<div class="native">{shown}</div>\n<div class="ipa">{shown}</div>[sound:asset_100.mp3]',
        f'<div class="translation">{shown}</div>\n<div class="example">\n'
        f'<div class="native">{shown} [sound:asset_101.mp3]</div>\n'
        f'<div class="ipa">{shown}</div><div class="body">{shown}</div>\n'
        f'<div class="extra">{shown}</div></div>',
    )
    assert [name for text in rendered.fields for name in sound_files(text)] == [
        "asset_100.mp3",
        "asset_101.mp3",
    ]


@pytest.mark.parametrize("case", ["[SOUND:evil.mp3]", "[Sound:evil.mp3]", "[LaTeX]x", "[ANKI:tts]"])
def test_a_command_in_capitals_is_shown_as_it_is(case: str) -> None:
    (front, _) = Renderer().render(replace(EATING, native_text=case)).fields
    assert f'<div class="native">&#91;{case[1:]}</div>' in front


@pytest.mark.parametrize("between", ["\x01", "\r", "\x0b", "\x1f", "\x7f", "\x1e\x1f"])
@pytest.mark.parametrize("text", ["[{}sound:evil.mp3]", "[so{}und:evil.mp3]", "[{}$]x[/$]"])
def test_a_character_that_anki_drops_hides_no_command(between: str, text: str) -> None:
    hidden, plain = text.format(between), text.format("")
    fields = Renderer().render(replace(EATING, native_text=hidden)).fields
    kept = [re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", field) for field in fields]
    assert [field for field in kept if plain in field] == []


@pytest.mark.parametrize(
    "front",
    [
        "{{ content.native_text|e }}",
        "{{ examples|map(attribute='native_text')|join('<br>'|safe) }}",
        "{% set text %}{{ content.native_text }}{% endset %}{{ text }}",
        "{% macro show(text) %}{{ text }}{% endmacro %}{{ show(content.native_text) }}",
        "{{ '<b>%s</b>'|safe|format(content.native_text) }}",
        "{{ ('<b>'|safe) ~ content.native_text }}",
    ],
)
def test_a_text_that_a_filter_has_escaped_plays_nothing(tmp_path: Path, front: str) -> None:
    evil = "[sound:evil.mp3]"
    content = replace(
        EATING, native_text=evil, examples=(replace(EXAMPLE_1, native_text=evil),) * 2
    )
    rendered = Renderer(templates(tmp_path, front)).render(content)
    assert [sound_files(field) for field in rendered.fields] == [[], []]


def test_what_a_template_says_itself_is_a_command(tmp_path: Path) -> None:
    own = templates(tmp_path, "<b>[sound:bell.mp3]</b>[$]x^2[/$]{{ '<i>'|safe }}")
    assert Renderer(own).render(EATING).fields == ("<b>[sound:bell.mp3]</b>[$]x^2[/$]<i>", "b")


def test_a_folder_of_ones_own_templates_is_used(tmp_path: Path) -> None:
    own = templates(
        tmp_path,
        "{{ content.title }}, {{ content.difficulty_level }}, {{ content.tags|join(' ') }}",
        "{% for each in examples %}{{ loop.index }}. {{ each.ipa }}{{ each.extra }};{% endfor %}",
    )
    assert Renderer(own).render(EATING).fields == (
        "กิน (to eat), 1, food",
        "1. [pʰǒm kin kʰâːw];2. colloquial;",
    )


def test_a_template_may_take_in_another_one_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "sound.html").write_text("{{ item.sound }}")
    own = templates(tmp_path, "{% include 'sound.html' %}")
    rendered = Renderer(own).render(EATING)
    assert (rendered.fields, rendered.sounds) == (
        ("[sound:asset_100.mp3]", "b"),
        (Sound(100, MD5, 9),),
    )


@pytest.mark.parametrize(
    ("front", "detail"),
    [
        ("{% if content %}", r"front\.html, line 1 "),
        ("a\n{{ content.title }", r"front\.html, line 2 "),
        ("{{ content.title|upside_down }}", r"upside_down"),
        ("{% extends 'base.html' %}", r"for content 1 .*base\.html"),
        ("{{ content.titel }}", r"for content 1 .*titel"),
        ("{{ contend.title }}", r"for content 1 .*contend"),
        ("{{ item.sound.file.nothing }}", r"for content 1 .*nothing"),
        ("{{ 1 // (content.id - 1) }}", r"for content 1 .*zero"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", r"for content 1 .*recursion"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(tmp_path: Path, front: str, detail: str) -> None:
    with pytest.raises(RenderError, match=detail) as caught:
        Renderer(templates(tmp_path, front)).render(EATING)
    assert caught.value.problem.startswith(f"The templates in {tmp_path}")
    assert caught.value.remedy == ("Correct them, or unset ANKI_TEMPLATES to use the project's own")


@pytest.mark.parametrize("lacks", ["front.html", "back.html"])
def test_a_template_that_is_missing_is_named(tmp_path: Path, lacks: str) -> None:
    (templates(tmp_path) / lacks).unlink()
    with pytest.raises(RenderError, match=lacks):
        Renderer(tmp_path)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match=r"nowhere, front\.html"):
        Renderer(tmp_path / "nowhere")


def test_a_template_that_is_no_text_is_named(tmp_path: Path) -> None:
    (templates(tmp_path) / "back.html").write_bytes(b"\xff\xfe<\x00")
    with pytest.raises(RenderError, match=str(tmp_path)):
        Renderer(tmp_path)


def test_the_projects_own_templates_are_part_of_it() -> None:
    assert sorted(path.name for path in TEMPLATES.iterdir()) == ["back.html", "front.html"]


def test_an_export_hash_says_what_it_was_made_of() -> None:
    made = Renderer().render(EATING).hash
    assert ExportHash.parse(str(made), fields=2) == made
    assert (len(made.fields), len(set(made.fields))) == (2, 2)


@pytest.mark.parametrize("text", [None, "", "5d41402abc4b2a76b9719d911017c592", "--", "a-b-c"])
def test_the_hash_of_an_earlier_application_says_nothing(text: str | None) -> None:
    assert ExportHash.parse(text, fields=2) is None


def test_other_bytes_of_a_recording_are_another_export() -> None:
    other = replace(EATING, item=replace(EATING.item, sound=Sound(100, "1" * 32, 9)))  # type: ignore[type-var]
    before, after = Renderer().render(EATING).hash, Renderer().render(other).hash
    assert (before.fields, before.media == after.media) == (after.fields, False)


letters = st.one_of(
    st.characters(codec="utf-8", exclude_characters="\0"),
    st.sampled_from("กิ่น้ำเเแ็ๆ ิ่\u0301\u0302\u030c\u0323ǎɛ̂ʔ👩‍👧🏽🇹🇭\u200d\u200b\u2028\u0085\ufeff"),
    st.sampled_from("\r\n\t\x01\x0b\x0c\x1f\x7f\"'<>&[]$\\ \u00a0"),
    st.sampled_from(["\r\n", "&quot;", "&#91;", "&nbsp;", "[sound:", "[latex]", "e\u0301", "ǎ"]),
)


texts = st.lists(letters, max_size=20).map("".join)


@pytest.fixture(scope="module")
def collection(anki_blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """A collection with one note."""
    path = tmp_path_factory.mktemp("kept") / "collection.anki2"
    path.write_bytes((anki_blank / "collection.anki2").read_bytes())
    opened = Collection(str(path))
    model = opened.models.by_name("Basic")
    assert model is not None
    opened.add_note(opened.new_note(model), opened.decks.get_current_id())
    yield opened
    opened.close()


def kept(collection: Collection, *fields: str) -> tuple[str, ...]:
    """These fields as Anki has them after they were written."""
    (number,) = collection.find_notes("")
    note = collection.get_note(number)
    note.fields = list(fields)
    collection.update_note(note, skip_undo_entry=True)
    return tuple(collection.get_note(number).fields)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts, other=texts)
@example(text="a\x7fb", other="\r\r\n")
@example(text="[\x01sound:evil.mp3]", other=unicodedata.normalize("NFD", "sɔ̌ːŋ"))
def test_anki_keeps_every_rendered_field_as_it_is(
    collection: Collection, text: str, other: str
) -> None:
    fragment = replace(EXAMPLE_1, native_text=other, body_text=text, ipa=text, extra=other)
    content = replace(EATING, native_text=text, translation=text, ipa=other, examples=(fragment,))
    rendered = Renderer().render(content)
    there = kept(collection, *rendered.fields)
    assert there == rendered.fields
    assert tuple(map(digest, there)) == rendered.hash.fields
    assert [sound_files(field) for field in there] == [["asset_100.mp3"], ["asset_101.mp3"]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts)
@example(text="\x7f")
@example(text="\x85\u2028\r")
def test_any_text_has_one_digest_before_and_after_anki(collection: Collection, text: str) -> None:
    there, _ = kept(collection, text, "")
    assert there == canonical(text)
    assert digest(there) == digest(text)


@given(text=texts, other=texts)
def test_only_equal_texts_have_one_digest(text: str, other: str) -> None:
    def plain(said: str) -> str:
        for escaped, letter in {"&quot;": '"', "&#34;": '"', "&#39;": "'", "&#91;": "["}.items():
            said = said.replace(escaped, letter)
        return canonical(said)

    assert (digest(text) == digest(other)) == (plain(text) == plain(other))
