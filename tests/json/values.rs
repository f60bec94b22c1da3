//! What is accepted, and how it is written.

use super::*;

/// JSON that goes in, and what comes out; `=`: the same.
const VALUES: &[(&str, &str)] = &[
    ("{}", "="),
    (" { } \n", "{}"),
    // Numbers, as numbers and as texts.
    (r#"{"anInt32":2147483647}"#, "="),
    (r#"{"anInt32":-2147483648}"#, "="),
    (r#"{"anInt32":"2147483647"}"#, r#"{"anInt32":2147483647}"#),
    (r#"{"anInt32":"\u0031"}"#, r#"{"anInt32":1}"#),
    (r#"{"anInt32":1e5}"#, r#"{"anInt32":100000}"#),
    (r#"{"anInt32":100000.000}"#, r#"{"anInt32":100000}"#),
    (r#"{"anInt32":"1e5"}"#, r#"{"anInt32":100000}"#),
    (r#"{"anInt32":-2.147483648e9}"#, r#"{"anInt32":-2147483648}"#),
    (r#"{"anInt32":0}"#, "{}"),
    (r#"{"anInt32":-0}"#, "{}"),
    (r#"{"aUint32":4.294967295e9}"#, r#"{"aUint32":4294967295}"#),
    (r#"{"anInt64":"9223372036854775807"}"#, "="),
    (r#"{"anInt64":"-9223372036854775808"}"#, "="),
    (r#"{"anInt64":9223372036854775807}"#, r#"{"anInt64":"9223372036854775807"}"#),
    (r#"{"aUint64":18446744073709551615}"#, r#"{"aUint64":"18446744073709551615"}"#),
    (r#"{"aSint64":1,"aFixed64":2,"aSfixed64":-3}"#, r#"{"aSint64":"1","aFixed64":"2","aSfixed64":"-3"}"#),
    (r#"{"aDouble":1}"#, "="),
    (r#"{"aDouble":1.0}"#, r#"{"aDouble":1}"#),
    (r#"{"aDouble":"1.5"}"#, r#"{"aDouble":1.5}"#),
    (r#"{"aDouble":"NaN"}"#, "="),
    (r#"{"aDouble":"Infinity"}"#, "="),
    (r#"{"aDouble":"-Infinity"}"#, "="),
    (r#"{"doubles":[-0.0,0]}"#, "="),
    (r#"{"aDouble":1.79769e+308}"#, "="),
    (r#"{"aDouble":5e-324}"#, "="),
    (r#"{"aDouble":0.1}"#, "="),
    (r#"{"aDouble":123456789012345680}"#, r#"{"aDouble":1.2345678901234568e+17}"#),
    (r#"{"aFloat":0.1}"#, "="),
    (r#"{"aFloat":3.4028235e38}"#, r#"{"aFloat":3.4028235e+38}"#),
    (r#"{"aFloat":1143631872}"#, r#"{"aFloat":1143631900.0}"#),
    (r#"{"aFloat":"-Infinity"}"#, "="),
    (r#"{"aFloat":16777216}"#, "="),
    // Texts and bytes.
    ("{\"aString\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}", "{\"aString\":\"\\\"\\\\/\\b\\f\\n\\r\\t\"}"),
    ("{\"aString\":\"\\u8C37\\u6b4c\\ud83d\\ude01\"}", "{\"aString\":\"谷歌😁\"}"),
    (r#"{"someBytes":"AQI="}"#, "="),
    (r#"{"someBytes":"AQI"}"#, r#"{"someBytes":"AQI="}"#),
    (r#"{"someBytes":"-_"}"#, r#"{"someBytes":"+w=="}"#),
    (r#"{"someBytes":""}"#, "{}"),
    // Enums.
    (r#"{"color":"RED"}"#, "="),
    (r#"{"color":-2}"#, r#"{"color":"GREEN"}"#),
    (r#"{"color":123}"#, "="),
    // Presence.
    (r#"{"maybe":0,"maybeText":""}"#, "="),
    (r#"{"nested":{}}"#, "="),
    (r#"{"chosenNumber":"0"}"#, "="),
    (r#"{"chosenText":""}"#, "="),
    (r#"{"chosenNested":{}}"#, "="),
    (r#"{"chosenNull":null}"#, "="),
    (r#"{"chosenNull":"NULL_VALUE"}"#, r#"{"chosenNull":null}"#),
    (r#"{"chosenText":null,"chosenNumber":1}"#, r#"{"chosenNumber":"1"}"#),
    (r#"{"anInt32":null,"nested":null,"texts":null,"labels":null,"int64Value":null,"time":null}"#, "{}"),
    // Names.
    (r#"{"an_int32":1}"#, r#"{"anInt32":1}"#),
    (r#"{"@other":"x"}"#, "="),
    (r#"{"other_name":"x"}"#, r#"{"@other":"x"}"#),
    // Lists and maps, which are written in the order of their keys.
    (r#"{"longs":["1","2"]}"#, "="),
    (r#"{"longs":[]}"#, "{}"),
    (r#"{"floats":[1,0.5]}"#, "="),
    (r#"{"colors":["RED",7,"COLOR_NONE"]}"#, "="),
    (r#"{"items":[{},{"count":1,"items":[{}]}]}"#, "="),
    (r#"{"labels":{"b":"2","a":"1","":""}}"#, r#"{"labels":{"":"","a":"1","b":"2"}}"#),
    (r#"{"byNumber":{"10":{},"-1":{"count":1}}}"#, r#"{"byNumber":{"-1":{"count":1},"10":{}}}"#),
    (r#"{"byTruth":{"tr\u0075e":"AQ==","false":""}}"#, r#"{"byTruth":{"false":"","true":"AQ=="}}"#),
    (r#"{"byLong":{"18446744073709551615":"RED"}}"#, "="),
    (r#"{"bySigned":{"-1":"NaN"}}"#, "="),
    (r#"{"byFixed":{"1":null,"2":[null]}}"#, "="),
    // Well-known types.
    (r#"{"time":"0001-01-01T00:00:00Z"}"#, "="),
    (r#"{"time":"9999-12-31T23:59:59.999999999Z"}"#, "="),
    (r#"{"time":"1970-01-01T08:00:01+08:00"}"#, r#"{"time":"1970-01-01T00:00:01Z"}"#),
    (r#"{"time":"1970-01-01T00:00:00.010000000Z"}"#, r#"{"time":"1970-01-01T00:00:00.010Z"}"#),
    (r#"{"time":"1970-01-01T00:00:00.00001Z"}"#, r#"{"time":"1970-01-01T00:00:00.000010Z"}"#),
    (r#"{"duration":"315576000000.999999999s"}"#, "="),
    (r#"{"duration":"-1.5s"}"#, r#"{"duration":"-1.500s"}"#),
    (r#"{"duration":"1.000000000s"}"#, r#"{"duration":"1s"}"#),
    (r#"{"duration":"0s"}"#, "="),
    (r#"{"mask":"foo,barBaz.q"}"#, "="),
    (r#"{"mask":""}"#, "="),
    (r#"{"struct":{"a":null,"b":[1,"x",{"c":true}],"d":{},"e":[],"f":1.5}}"#, "="),
    (r#"{"value":null}"#, "="),
    (r#"{"value":[[null]]}"#, "="),
    (r#"{"values":[null,1,"a",{"b":[]}]}"#, "="),
    (r#"{"list":[1,null]}"#, "="),
    (r#"{"empty":{}}"#, "="),
    (r#"{"null":null}"#, "{}"),
    (r#"{"int64Value":0}"#, r#"{"int64Value":"0"}"#),
    (r#"{"boolValue":false,"stringValue":"","bytesValue":""}"#, "="),
    (r#"{"doubleValue":"NaN","floatValue":0.5,"uint32Value":0}"#, "="),
    (r#"{"int64Values":["0","1"]}"#, "="),
    // Any.
    (r#"{"any":{}}"#, "="),
    (r#"{"any":{"@type":"type.googleapis.com/everything.All","anInt32":1}}"#, "="),
    (
        r#"{"any":{"anInt32":1,"@type":"type.googleapis.com/everything.All"}}"#,
        r#"{"any":{"@type":"type.googleapis.com/everything.All","anInt32":1}}"#,
    ),
    (r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1.500s"}}"#, "="),
    (r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Int32Value","value":1}}"#, "="),
    (r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Struct","value":{"foo":1}}}"#, "="),
    (r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Value","value":null}}"#, "="),
    (r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Empty","value":{}}}"#, "="),
    (
        r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Empty"}}"#,
        r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Empty","value":{}}}"#,
    ),
    (
        r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Any","value":{"@type":"x.y/legacy.Holder","full":true}}}"#,
        "=",
    ),
    // Not of this upstream, but known anyway.
    (r#"{"any":{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"R"}}"#, "="),
];

#[test]
fn values_come_back_in_their_canonical_form() {
    let mut wrong = Vec::new();
    for (json, expected) in VALUES {
        let expected = if *expected == "=" { json } else { expected };
        let found = through(&all(), json);
        if found != *expected {
            wrong.push(format!("{json}\n  expected: {expected}\n  found:    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn proto2_has_groups_extensions_and_presence() {
    for json in [
        r#"{"name":""}"#,
        r#"{"name":"a","number":0}"#,
        r#"{"name":"a","grouped":{"text":"x","inner":[{"id":"1"},{"id":"2"}]}}"#,
        r#"{"name":"a","closed":["ONE","TWO"]}"#,
        r#"{"name":"a","[legacy.nickname]":"b","[legacy.serials]":["1"],"[legacy.Holder.held]":{"full":true}}"#,
    ] {
        assert_eq!(through(&old(), json), json);
    }
}

#[test]
fn unknown_fields_and_enum_values_are_left_out_where_a_route_says_so() {
    let ignoring = JsonOptions { ignore_unknown: true, ..STRICT };
    for (json, expected) in [
        (r#"{"nope":{"a":[1]},"anInt32":1}"#, r#"{"anInt32":1}"#),
        (r#"{"color":"BLUE"}"#, "{}"),
        (r#"{"colors":["RED","BLUE"]}"#, r#"{"colors":["RED"]}"#),
        (r#"{"byLong":{"1":"BLUE","2":"RED"}}"#, r#"{"byLong":{"2":"RED"}}"#),
        (r#"{"nested":{"nope":1}}"#, r#"{"nested":{}}"#),
    ] {
        assert_eq!(through_with(&all(), json, &ignoring), expected, "{json}");
    }
    // Wrong is still wrong.
    assert!(to_protobuf(&all(), br#"{"anInt32":"x"}"#, &ignoring).is_err());
    assert!(to_protobuf(&all(), br#"{"color":[]}"#, &ignoring).is_err());
}

#[test]
fn a_route_may_write_defaults_and_original_names() {
    let names = JsonOptions { field_names: FieldNames::Original, ..STRICT };
    let json = r#"{"anInt32":1,"@other":"x","byNumber":{"1":{}}}"#;
    assert_eq!(through_with(&all(), json, &names), r#"{"an_int32":1,"other_name":"x","by_number":{"1":{}}}"#);

    let defaults = JsonOptions { defaults: true, ..STRICT };
    let nested = descriptor("everything.All.Nested");
    assert_eq!(through_with(&nested, "{}", &defaults), r#"{"count":0,"items":[]}"#);
    let all: serde_json::Value = serde_json::from_str(&through_with(&all(), "{}", &defaults)).unwrap();
    assert_eq!(all["anInt64"], "0");
    assert_eq!(all["color"], "COLOR_NONE");
    assert_eq!(all["labels"], serde_json::json!({}));
    // What can be absent is absent.
    for name in ["maybe", "nested", "chosenText", "any", "int64Value"] {
        assert_eq!(all.get(name), None, "{name}");
    }
}

#[test]
fn an_any_of_an_unknown_or_wrong_type_is_shown_as_it_is() {
    let shown = |url: &str, bytes: &[u8]| {
        let mut any = DynamicMessage::new(descriptor("google.protobuf.Any"));
        any.set_field_by_name("type_url", prost_reflect::Value::String(url.into()));
        any.set_field_by_name("value", prost_reflect::Value::Bytes(bytes.to_vec().into()));
        let mut message = DynamicMessage::new(all());
        message.set_field_by_name("any", prost_reflect::Value::Message(any));
        String::from_utf8(to_json(&all(), &message.encode_to_vec(), &STRICT).unwrap()).unwrap()
    };
    assert_eq!(shown("t/no.Such", b"\x01\x02"), r#"{"any":{"@type":"t/no.Such","value":"AQI="}}"#);
    assert_eq!(shown("t/legacy.Holder", b"\xff"), r#"{"any":{"@type":"t/legacy.Holder","value":"/w=="}}"#);
    // Past the range of times.
    let time = b"\x08\x80\x80\x80\x80\x80\x80\x80\x01";
    assert!(
        shown("t/google.protobuf.Timestamp", time)
            .starts_with(r#"{"any":{"@type":"t/google.protobuf.Timestamp","value":"CI"#)
    );
    assert_eq!(shown("", b""), r#"{"any":{}}"#);
}

#[test]
fn what_json_cannot_say_names_the_field() {
    let seconds = |seconds: i64| {
        let mut time = DynamicMessage::new(descriptor("google.protobuf.Timestamp"));
        time.set_field_by_name("seconds", prost_reflect::Value::I64(seconds));
        let mut message = DynamicMessage::new(all());
        message.set_field_by_name(
            "times",
            prost_reflect::Value::List(vec![prost_reflect::Value::Message(time)]),
        );
        to_json(&all(), &message.encode_to_vec(), &STRICT)
    };
    assert!(seconds(253_402_300_799).is_ok());
    let error = seconds(253_402_300_800).unwrap_err();
    assert_eq!((error.code(), error.path()), (Code::INTERNAL, "times[0]"));

    let mut value = DynamicMessage::new(descriptor("google.protobuf.Value"));
    value.set_field_by_name("number_value", prost_reflect::Value::F64(f64::NAN));
    let mut message = DynamicMessage::new(all());
    message.set_field_by_name("value", prost_reflect::Value::Message(value));
    let error = to_json(&all(), &message.encode_to_vec(), &STRICT).unwrap_err();
    assert_eq!(error.to_string(), "at value: JSON has no number NaN");
}

#[test]
fn a_status_is_json_with_its_details_expanded_where_their_type_is_known() {
    let any = |url: &str, value: Vec<u8>| prost_types::Any { type_url: url.into(), value };
    let info = tonic_types::pb::ErrorInfo { reason: "R".into(), domain: "d".into(), ..Default::default() };
    let rich = tonic_types::pb::Status {
        code: 5,
        message: "ignored".into(),
        details: vec![
            any("type.googleapis.com/google.rpc.ErrorInfo", info.encode_to_vec()),
            any("type.googleapis.com/legacy.Holder", vec![8, 1]),
            any("type.googleapis.com/no.Such", vec![1]),
        ],
    };
    let status =
        Status { code: Code::NOT_FOUND, message: "no \"x\"".into(), details: rich.encode_to_vec().into() };
    let json = |pool| String::from_utf8(status_to_json(pool, &status, &STRICT)).unwrap();
    assert_eq!(
        json(Some(&*POOL)),
        r#"{"code":5,"message":"no \"x\"","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"R","domain":"d"},{"@type":"type.googleapis.com/legacy.Holder","full":true},{"@type":"type.googleapis.com/no.Such","value":"AQ=="}]}"#
    );
    assert!(json(None).contains(r#"{"@type":"type.googleapis.com/legacy.Holder","value":"CAE="}"#));

    let plain = Status::new(Code::OK, "");
    assert_eq!(status_to_json(None, &plain, &STRICT), br#"{"code":0,"message":""}"#);
    let broken = Status { details: vec![0xff].into(), ..status.clone() };
    assert_eq!(
        status_to_json(None, &broken, &STRICT),
        br#"{"code":5,"message":"no \"x\"","details":[{"@type":"type.googleapis.com/google.rpc.Status","value":"/w=="}]}"#
    );
}
