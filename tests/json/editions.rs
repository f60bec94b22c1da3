//! Files of editions: what their features say holds for bytes and JSON.

use std::path::Path;

use super::*;

fn modern() -> (Descriptors, MessageDescriptor) {
    let descriptors = Descriptors::read_set(Path::new("tests/schema/edition.binpb")).unwrap();
    let message = descriptors.pool().get_message_by_name("edition.Modern").unwrap();
    (descriptors, message)
}

#[test]
fn presence_packing_groups_and_maps_are_those_of_the_features() {
    let (_, modern) = modern();
    let bytes = |json: &str| to_protobuf(&modern, json.as_bytes(), &STRICT).unwrap();
    // Explicit presence keeps a 0, implicit presence does not; required is required.
    assert_eq!(&bytes(r#"{"required":"","explicit":0,"implicit":0}"#)[..], b"\x08\x00\x1a\x00");
    assert_eq!(mistake(&modern, "{}"), "the required field \"required\" is missing");
    // A delimited message begins with tag 4, wire type 3, and ends with wire type 4.
    assert_eq!(&bytes(r#"{"required":"","delimited":{"required":""}}"#)[..], b"\x1a\x00\x23\x1a\x00\x24");
    assert_eq!(&bytes(r#"{"required":"","packed":[1,2]}"#)[..], b"\x1a\x00\x2a\x02\x01\x02");
    assert_eq!(&bytes(r#"{"required":"","expanded":[1,2]}"#)[..], b"\x1a\x00\x30\x01\x30\x02");
    for json in [
        r#"{"explicit":0,"required":"x","closed":"CLOSED_ONE","number":0}"#,
        r#"{"required":"","map":{"a":{"required":"","text":""}},"[edition.extra]":0}"#,
    ] {
        assert_eq!(through(&modern, json), json);
    }
}

#[test]
fn the_file_is_given_on_as_it_came() {
    let (descriptors, _) = modern();
    let file = std::fs::read("tests/schema/edition.binpb").unwrap();
    assert_eq!(descriptors.encode_symbol("edition.Modern").unwrap(), file);
    let text = descriptors.describe("edition.Modern").unwrap();
    assert!(
        text.contains(
            "  optional int32 explicit = 1;\n  int32 implicit = 2;\n  required string required = 3;"
        ),
        "{text}"
    );
}
