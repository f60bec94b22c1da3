//! What is refused, and with which words.

use super::*;

/// JSON, and what is wrong with it as an `everything.All`.
const MISTAKES: &[(&str, &str)] = &[
    // Not JSON at all.
    ("", "the message is empty; one without fields is written {}"),
    (" \n", "the message is empty; one without fields is written {}"),
    ("{", "not valid JSON: EOF while parsing an object at line 1 column 1"),
    ("{\"aString\": \"x", "at aString: not valid JSON: EOF while parsing a string at line 1 column 14"),
    ("{} {}", "not valid JSON: trailing characters at line 1 column 4"),
    ("{}x", "not valid JSON: trailing characters at line 1 column 3"),
    ("{aString: 1}", "not valid JSON: key must be a string at line 1 column 2"),
    ("{'aString': 1}", "not valid JSON: key must be a string at line 1 column 2"),
    ("{\"aString\": 'x'}", "at aString: not valid JSON: expected value at line 1 column 13"),
    ("{\"aString\": \"x\",}", "not valid JSON: trailing comma at line 1 column 17"),
    ("{\"anInt32\": 1 \"aBool\": true}", "not valid JSON: expected `,` or `}` at line 1 column 15"),
    ("{\"texts\": [\"a\",]}", "at texts[1]: not valid JSON: trailing comma at line 1 column 16"),
    ("{\"anInt32\": +1}", "at anInt32: not valid JSON: expected value at line 1 column 13"),
    ("{\"anInt32\": 01}", "at anInt32: not valid JSON: invalid number at line 1 column 14"),
    ("{\"aBool\": True}", "at aBool: not valid JSON: expected value at line 1 column 11"),
    ("{\"aDouble\": NaN}", "at aDouble: not valid JSON: expected value at line 1 column 13"),
    ("{\"aDouble\": 1e400}", "at aDouble: not valid JSON: number out of range at line 1 column 17"),
    (
        "{\"aString\": \"\\ud800\"}",
        "at aString: not valid JSON: unexpected end of hex escape at line 1 column 20",
    ),
    ("{\"aString\": \"\\uXXXX\"}", "at aString: not valid JSON: invalid escape at line 1 column 19"),
    ("{\"byNumber\": {1: {}}}", "at byNumber: not valid JSON: key must be a string at line 1 column 15"),
    // Not an object.
    ("null", "expected an object, found null"),
    ("[]", "expected an object, found a list"),
    ("\"x\"", "expected an object, found \"x\""),
    ("7", "expected an object, found 7"),
    // Fields.
    ("{\"aStrng\": \"x\"}", "everything.All has no field \"aStrng\"; did you mean \"aString\"?"),
    (
        "{\"nested\": {\"cuont\": 1}}",
        "at nested: everything.All.Nested has no field \"cuont\"; did you mean \"count\"?",
    ),
    ("{\"zzz\": 1}", "everything.All has no field \"zzz\""),
    ("{\"otherName\": \"x\"}", "everything.All has no field \"otherName\""),
    ("{\"[legacy.nickname]\": \"x\"}", "everything.All has no field \"[legacy.nickname]\""),
    ("{\"aBool\": true, \"aBool\": true}", "at aBool: the field is there twice"),
    ("{\"aBool\": true, \"a_bool\": true}", "at a_bool: the field is there twice"),
    ("{\"aBool\": null, \"a_bool\": true}", "at a_bool: the field is there twice"),
    (
        "{\"chosenText\": \"\", \"chosenNumber\": 1}",
        "at chosenNumber: only one of the oneof \"choice\" can be set, and \"chosenText\" is",
    ),
    (
        "{\"chosenNull\": null, \"chosenNumber\": 1}",
        "at chosenNumber: only one of the oneof \"choice\" can be set, and \"chosenNull\" is",
    ),
    // Numbers.
    (
        "{\"items\": [{}, {}, {\"count\": \"x\"}]}",
        "at items[2].count: expected a 32-bit integer, found \"x\"",
    ),
    ("{\"anInt32\": 2147483648}", "at anInt32: expected a 32-bit integer, found 2147483648"),
    ("{\"anInt32\": -2147483649}", "at anInt32: expected a 32-bit integer, found -2147483649"),
    ("{\"anInt32\": 0.5}", "at anInt32: expected a 32-bit integer, found 0.5"),
    ("{\"anInt32\": \"0.5\"}", "at anInt32: expected a 32-bit integer, found \"0.5\""),
    ("{\"anInt32\": \" 1\"}", "at anInt32: expected a 32-bit integer, found \" 1\""),
    ("{\"anInt32\": \"1 \"}", "at anInt32: expected a 32-bit integer, found \"1 \""),
    ("{\"anInt32\": \"+1\"}", "at anInt32: expected a 32-bit integer, found \"+1\""),
    ("{\"anInt32\": \"01\"}", "at anInt32: expected a 32-bit integer, found \"01\""),
    ("{\"anInt32\": \"\"}", "at anInt32: expected a 32-bit integer, found \"\""),
    ("{\"anInt32\": true}", "at anInt32: expected a 32-bit integer, found true"),
    ("{\"anInt32\": {}}", "at anInt32: expected a 32-bit integer, found an object"),
    ("{\"anInt32\": [1]}", "at anInt32: expected a 32-bit integer, found a list"),
    ("{\"aUint32\": -1}", "at aUint32: expected an unsigned 32-bit integer, found -1"),
    ("{\"aFixed32\": 4294967296}", "at aFixed32: expected an unsigned 32-bit integer, found 4294967296"),
    (
        "{\"anInt64\": \"9223372036854775808\"}",
        "at anInt64: expected a 64-bit integer, found \"9223372036854775808\"",
    ),
    (
        "{\"anInt64\": 9223372036854775808}",
        "at anInt64: expected a 64-bit integer, found 9223372036854775808",
    ),
    (
        "{\"aUint64\": \"18446744073709551616\"}",
        "at aUint64: expected an unsigned 64-bit integer, found \"18446744073709551616\"",
    ),
    (
        "{\"aUint64\": 1e30}",
        "at aUint64: expected an unsigned 64-bit integer, found 1000000000000000000000000000000",
    ),
    (
        "{\"aFloat\": 3.502823e38}",
        "at aFloat: expected a number in the range of 32-bit floats, found 350282300000000000000000000000000000000",
    ),
    ("{\"aDouble\": \"1e400\"}", "at aDouble: expected a number, found \"1e400\""),
    ("{\"aDouble\": \"nan\"}", "at aDouble: expected a number, found \"nan\""),
    ("{\"aDouble\": \"inf\"}", "at aDouble: expected a number, found \"inf\""),
    ("{\"aDouble\": \"\"}", "at aDouble: expected a number, found \"\""),
    // Other scalars.
    ("{\"aBool\": 1}", "at aBool: expected true or false, found 1"),
    ("{\"aBool\": \"true\"}", "at aBool: expected true or false, found \"true\""),
    ("{\"aString\": 12345}", "at aString: expected a text, found 12345"),
    ("{\"someBytes\": \"a*\"}", "at someBytes: expected a text in base64, found \"a*\""),
    ("{\"someBytes\": [1, 2]}", "at someBytes: expected a text in base64, found a list"),
    (
        "{\"color\": \"BLUE\"}",
        "at color: expected a value of everything.Color (COLOR_NONE, RED, GREEN), found \"BLUE\"",
    ),
    (
        "{\"color\": 1.5}",
        "at color: expected a value of everything.Color (COLOR_NONE, RED, GREEN), found 1.5",
    ),
    // Lists and maps.
    ("{\"texts\": \"a\"}", "at texts: expected a list, found \"a\""),
    ("{\"texts\": {\"0\": \"a\"}}", "at texts: expected a list, found an object"),
    ("{\"texts\": [\"a\", null]}", "at texts[1]: a list's elements cannot be null"),
    ("{\"texts\": [[\"a\"]]}", "at texts[0]: expected a text, found a list"),
    ("{\"items\": [{}, null]}", "at items[1]: a list's elements cannot be null"),
    ("{\"items\": [{}, 2]}", "at items[1]: expected an object, found 2"),
    ("{\"labels\": [\"a\"]}", "at labels: expected an object, found a list"),
    ("{\"labels\": {\"a\": null}}", "at labels[\"a\"]: a map's values cannot be null"),
    ("{\"labels\": {\"a\": \"1\", \"a\": \"2\"}}", "at labels[\"a\"]: the key is there twice"),
    ("{\"byNumber\": {\"1\": {}, \"1e0\": {}}}", "at byNumber[\"1e0\"]: the key is there twice"),
    ("{\"byNumber\": {\"x\": {}}}", "at byNumber[\"x\"]: expected a 32-bit integer as the key, found \"x\""),
    (
        "{\"byNumber\": {\"7\": {\"count\": []}}}",
        "at byNumber[\"7\"].count: expected a 32-bit integer, found a list",
    ),
    (
        "{\"byTruth\": {\"yes\": \"\"}}",
        "at byTruth[\"yes\"]: expected true or false as the key, found \"yes\"",
    ),
    // Well-known types.
    (
        "{\"time\": \"yesterday\"}",
        "at time: expected a time such as \"2006-01-02T15:04:05Z\", found \"yesterday\"",
    ),
    (
        "{\"time\": \"0000-01-01T00:00:00Z\"}",
        "at time: expected a time such as \"2006-01-02T15:04:05Z\", found \"0000-01-01T00:00:00Z\"",
    ),
    (
        "{\"time\": \"10000-01-01T00:00:00Z\"}",
        "at time: expected a time such as \"2006-01-02T15:04:05Z\", found \"10000-01-01T00:00:00Z\"",
    ),
    (
        "{\"time\": \"2006-01-02T15:04:05\"}",
        "at time: expected a time such as \"2006-01-02T15:04:05Z\", found \"2006-01-02T15:04:05\"",
    ),
    (
        "{\"time\": \"2006-01-02 15:04:05Z\"}",
        "at time: expected a time such as \"2006-01-02T15:04:05Z\", found \"2006-01-02 15:04:05Z\"",
    ),
    (
        "{\"time\": \"2006-01-02t15:04:05Z\"}",
        "at time: expected a time such as \"2006-01-02T15:04:05Z\", found \"2006-01-02t15:04:05Z\"",
    ),
    (
        "{\"time\": {\"seconds\": 1}}",
        "at time: expected a time such as \"2006-01-02T15:04:05Z\", found an object",
    ),
    ("{\"times\": [1]}", "at times[0]: expected a time such as \"2006-01-02T15:04:05Z\", found 1"),
    ("{\"duration\": \"1\"}", "at duration: expected a duration such as \"1.5s\", found \"1\""),
    (
        "{\"duration\": \"315576000001s\"}",
        "at duration: expected a duration such as \"1.5s\", found \"315576000001s\"",
    ),
    ("{\"mask\": \"a,b_c\"}", "at mask: expected field paths such as \"name,owner.id\", found \"a,b_c\""),
    ("{\"struct\": []}", "at struct: expected an object, found a list"),
    ("{\"struct\": {\"a\": {\"b\": 1, \"b\": 2}}}", "at struct[\"a\"][\"b\"]: the key is there twice"),
    ("{\"list\": {}}", "at list: expected a list, found an object"),
    ("{\"empty\": {\"a\": 1}}", "at empty: google.protobuf.Empty has no field \"a\""),
    ("{\"null\": \"x\"}", "at null: expected a value of google.protobuf.NullValue (NULL_VALUE), found \"x\""),
    ("{\"int64Value\": {\"value\": 1}}", "at int64Value: expected a 64-bit integer, found an object"),
    ("{\"boolValue\": \"x\"}", "at boolValue: expected true or false, found \"x\""),
    ("{\"int64Values\": [1, null]}", "at int64Values[1]: a list's elements cannot be null"),
    // Any.
    ("{\"any\": {\"value\": 1}}", "at any: \"@type\" is missing: the URL of the type of an Any"),
    (
        "{\"any\": {\"@type\": \"\"}}",
        "at any: \"\" is not the URL of a type; write \"type.googleapis.com/package.Message\"",
    ),
    (
        "{\"any\": {\"@type\": \"everything.All\"}}",
        "at any: \"everything.All\" is not the URL of a type; write \"type.googleapis.com/package.Message\"",
    ),
    ("{\"any\": {\"@type\": 1}}", "at any.@type: expected a text, found 1"),
    ("{\"any\": {\"@type\": \"t/no.Such\"}}", "at any: the type \"no.Such\" in \"@type\" is not known"),
    (
        "{\"any\": {\"@type\": \"t/everything.All\", \"nope\": 1}}",
        "at any: everything.All has no field \"nope\"",
    ),
    (
        "{\"any\": {\"nested\": {\"count\": \"x\"}, \"@type\": \"t/everything.All\"}}",
        "at any.nested.count: expected a 32-bit integer, found \"x\"",
    ),
    (
        "{\"any\": {\"@type\": \"t/google.protobuf.Duration\"}}",
        "at any: \"value\" is missing in an Any of google.protobuf.Duration",
    ),
    (
        "{\"any\": {\"@type\": \"t/google.protobuf.Duration\", \"value\": \"x\"}}",
        "at any.value: expected a duration such as \"1.5s\", found \"x\"",
    ),
    (
        "{\"any\": {\"@type\": \"t/google.protobuf.Duration\", \"value\": \"1s\", \"x\": 1}}",
        "at any: an Any of google.protobuf.Duration has \"@type\" and \"value\" only, found \"x\"",
    ),
    (
        "{\"any\": {\"@type\": \"t/google.protobuf.Int32Value\", \"value\": 1, \"value\": 2}}",
        "at any: \"value\" is there twice",
    ),
    (
        "{\"any\": {\"aBool\": true, \"@type\": \"t/everything.All\", \"@type\": \"t/everything.All\"}}",
        "at any: \"@type\" is there twice",
    ),
];

#[test]
fn every_mistake_is_told_with_its_place_and_what_to_write() {
    let mut wrong = Vec::new();
    for (json, expected) in MISTAKES {
        let found = mistake(&all(), json);
        if found != *expected {
            wrong.push(format!("{json}\n  expected: {expected}\n  found:    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn mistakes_that_only_proto2_knows() {
    for (json, expected) in [
        ("{}", "the required field \"name\" is missing"),
        (
            r#"{"name": "a", "grouped": {"inner": [{}]}}"#,
            "at grouped.inner[0]: the required field \"id\" is missing",
        ),
        (r#"{"name": "a", "[legacy.nickname]": 1}"#, "at [legacy.nickname]: expected a text, found 1"),
        (r#"{"name": "a", "[legacy.nick]": "x"}"#, "legacy.Old has no field \"[legacy.nick]\""),
        (
            r#"{"name": "a", "[legacy.serials]": [1], "[legacy.serials]": []}"#,
            "at [legacy.serials]: the field is there twice",
        ),
    ] {
        assert_eq!(mistake(&old(), json), expected, "{json}");
    }
}

#[test]
fn what_is_nested_too_deep_is_refused_before_it_costs_anything() {
    for (open, close) in
        [("{\"nested\":{\"all\":", "}}"), ("{\"struct\":{\"a\":", "}}"), ("{\"value\":[", "]}")]
    {
        let deep = |n: usize| open.repeat(n) + "1" + &close.repeat(n);
        assert!(mistake(&all(), &deep(60)).contains("objects and lists are nested more than 100 deep"));
    }
    let list = |n: usize| format!("{{\"value\":{}{}}}", "[".repeat(n), "]".repeat(n));
    assert!(mistake(&all(), &list(100)).ends_with("objects and lists are nested more than 100 deep"));
    assert!(mistake(&all(), &list(100_000)).ends_with("objects and lists are nested more than 100 deep"));
    to_protobuf(&all(), list(99).as_bytes(), &STRICT).unwrap();
    // What is ignored is not walked.
    let ignoring = JsonOptions { ignore_unknown: true, ..STRICT };
    let unknown = format!("{{\"unknown\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(through_with(&all(), &unknown, &ignoring), "{}");
}

#[test]
fn late_types_of_nested_any_are_bounded_for_each_reads_what_it_holds_once_more() {
    let nest = |n: usize| {
        let any = "\"@type\":\"t/google.protobuf.Any\"";
        format!("{{\"any\":{}{{}}{}}}", "{\"value\":".repeat(n), format!(",{any}}}").repeat(n))
    };
    to_protobuf(&all(), nest(4).as_bytes(), &STRICT).unwrap();
    assert!(mistake(&all(), &nest(5)).ends_with("put \"@type\" first in an Any that is nested this deep"));
    let first = |n: usize| {
        let any = "{\"@type\":\"t/google.protobuf.Any\",\"value\":";
        format!("{{\"any\":{}{{}}{}}}", any.repeat(n), "}".repeat(n))
    };
    to_protobuf(&all(), first(30).as_bytes(), &STRICT).unwrap();
}

#[test]
fn a_type_that_is_missing_is_named_so_that_it_can_be_asked_for() {
    let json = br#"{"anys": [{}, {"@type": "type.googleapis.com/other.v1.Thing", "x": 1}]}"#;
    let error = to_protobuf(&all(), json, &STRICT).unwrap_err();
    assert_eq!((error.missing_type(), error.path()), (Some("other.v1.Thing"), "anys[1]"));
    let other = to_protobuf(&all(), b"[]", &STRICT).unwrap_err();
    assert_eq!(other.missing_type(), None);
}

#[test]
fn a_client_s_text_is_repeated_only_in_part() {
    let long = "x".repeat(10_000);
    for json in [
        format!("{{\"{long}\": 1}}"),
        format!("{{\"anInt32\": \"{long}\"}}"),
        format!("{{\"byNumber\": {{\"{long}\": {{}}}}}}"),
        format!("{{\"any\": {{\"@type\": \"{long}\"}}}}"),
        format!("{{\"any\": {{\"@type\": \"t/{long}\"}}}}"),
        format!("{{\"labels\": {{\"{long}\": 1}}}}"),
    ] {
        assert!(mistake(&all(), &json).len() < 300, "{}", mistake(&all(), &json));
    }
}

#[test]
fn bytes_that_are_no_message_are_internal_errors() {
    let error = to_json(&all(), b"\xff", &STRICT).unwrap_err();
    assert_eq!(error.code(), Code::INTERNAL);
    assert!(error.to_string().starts_with("the bytes are not a everything.All: "), "{error}");
}
