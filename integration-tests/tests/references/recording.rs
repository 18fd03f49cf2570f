//! docs/recording.svg: GitHub shows it as an image, which runs no script and loads nothing.

use integration_tests::read;
use roxmltree::Document;

/// A page that shows it is to be there at once.
const LARGEST: usize = 200 * 1024;

/// What an image is drawn with. `script`, `foreignObject`, `image` and `a` are not among these.
const ELEMENTS: [&str; 10] = ["svg", "title", "style", "defs", "g", "rect", "circle", "text", "tspan", "use"];

#[test]
fn the_recording_is_a_small_image_that_needs_nothing_else() {
    let source = read("docs/recording.svg");
    assert!(source.len() <= LARGEST, "docs/recording.svg has {} bytes", source.len());
    let svg = Document::parse(&source).expect("docs/recording.svg is XML");
    assert_eq!(svg.root_element().tag_name().name(), "svg");
    for element in svg.descendants().filter(roxmltree::Node::is_element) {
        let name = element.tag_name().name();
        assert!(ELEMENTS.contains(&name), "an element `{name}`");
        for attribute in element.attributes() {
            let (key, value) = (attribute.name(), attribute.value());
            assert!(!key.starts_with("on"), "a script: {key}={value:?}");
            assert!(
                key != "href" || value.starts_with('#'),
                "a reference to something else: {key}={value:?}"
            );
            loads_nothing(value);
        }
        if name == "style" {
            loads_nothing(element.text().unwrap_or_default());
        }
    }
}

/// Neither CSS nor an attribute names a file or an address.
fn loads_nothing(text: &str) {
    for word in ["url(", "@import", "@font-face", "://", "javascript:", "data:"] {
        assert!(!text.contains(word), "`{word}` in {text:?}");
    }
}

/// What its last picture, which stays, and those before it are to show.
#[test]
fn the_recording_shows_a_holder_and_a_restart() {
    let source = read("docs/recording.svg");
    let svg = Document::parse(&source).expect("docs/recording.svg is XML");
    let texts: Vec<&str> = svg.descendants().filter_map(|node| node.text()).collect();
    for words in [
        "kill -9 ",
        "awaiting_port",
        "which is held by pid ",
        "portward restart database",
        "database is up after ",
    ] {
        assert!(texts.iter().any(|text| text.contains(words)), "{words:?} is not in docs/recording.svg");
    }
}
