//! Single values of JSON, and what they are in protobuf.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost_reflect::{EnumDescriptor, Kind, MapKey, Value};

/// A value of JSON that is no object and no list.
#[derive(Debug)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// A number without a fraction and exponent, as far as 64 bits go.
    Int(i128),
    /// Any other number.
    Float(f64),
    Text(&'a str),
}

/// How much of a client's text an error repeats, in characters.
const SHOWN: usize = 64;

/// How many names of an enum an error lists.
const LISTED: usize = 8;

impl Scalar<'_> {
    fn describe(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(text) if text.chars().nth(SHOWN).is_some() => {
                let shown: String = text.chars().take(SHOWN).collect();
                format!("{:?}", shown + "…")
            }
            Self::Text(text) => format!("{text:?}"),
        }
    }
}

/// `expected …, found …`.
pub(super) fn mismatch(expected: &str, found: &Scalar<'_>) -> String {
    format!("expected {expected}, found {}", found.describe())
}

/// `expected …` for a kind.
pub(super) fn expected(kind: &Kind) -> String {
    format!("expected {}", name(kind))
}

fn name(kind: &Kind) -> String {
    match kind {
        Kind::Double => "a number".into(),
        Kind::Float => "a number in the range of 32-bit floats".into(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "a 32-bit integer".into(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => "a 64-bit integer".into(),
        Kind::Uint32 | Kind::Fixed32 => "an unsigned 32-bit integer".into(),
        Kind::Uint64 | Kind::Fixed64 => "an unsigned 64-bit integer".into(),
        Kind::Bool => "true or false".into(),
        Kind::String => "a text".into(),
        Kind::Bytes => "a text in base64".into(),
        Kind::Message(_) => "an object".into(),
        Kind::Enum(kind) => {
            // In the order of the .proto file.
            let values = &kind.enum_descriptor_proto().value;
            let mut names: Vec<_> = values.iter().take(LISTED).map(|value| value.name().to_owned()).collect();
            if values.len() > LISTED {
                names.push("…".into());
            }
            format!("a value of {} ({})", kind.full_name(), names.join(", "))
        }
    }
}

/// The value of a kind that is no message. `None`: a name that its enum does not have, and which is to be ignored.
pub(super) fn read(kind: &Kind, found: &Scalar<'_>, ignore_unknown: bool) -> Result<Option<Value>, String> {
    let value = match kind {
        Kind::Double => float(found).map(Value::F64),
        Kind::Float => float(found).and_then(|number| {
            let narrow = number as f32;
            (narrow.is_finite() || !number.is_finite()).then_some(Value::F32(narrow))
        }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(found).map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(found).map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => integer(found).map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => integer(found).map(Value::U64),
        Kind::Bool => match found {
            Scalar::Bool(value) => Some(Value::Bool(*value)),
            _ => None,
        },
        Kind::String => match found {
            Scalar::Text(text) => Some(Value::String((*text).to_owned())),
            _ => None,
        },
        Kind::Bytes => match found {
            Scalar::Text(text) => bytes(text).map(|bytes| Value::Bytes(bytes.into())),
            _ => None,
        },
        Kind::Enum(kind) => match (enum_number(kind, found), found) {
            (None, Scalar::Text(_)) if ignore_unknown => return Ok(None),
            (number, _) => number.map(Value::EnumNumber),
        },
        Kind::Message(_) => None,
    };
    value.map(Some).ok_or_else(|| mismatch(&name(kind), found))
}

fn enum_number(kind: &EnumDescriptor, found: &Scalar<'_>) -> Option<i32> {
    match found {
        Scalar::Null => (kind.full_name() == "google.protobuf.NullValue").then_some(0),
        Scalar::Text(text) => kind.get_value_by_name(text).map(|value| value.number()),
        _ => integer(found),
    }
}

/// An integer, also where it is written with an exponent or a fraction of zeros, and in a text.
fn integer<T: TryFrom<i128>>(found: &Scalar<'_>) -> Option<T> {
    let number = match found {
        Scalar::Int(number) => *number,
        Scalar::Float(number) => whole(*number)?,
        Scalar::Text(text) if is_number(text) => match text.parse::<i128>() {
            Ok(number) => number,
            Err(_) => whole(text.parse().ok()?)?,
        },
        _ => return None,
    };
    T::try_from(number).ok()
}

fn whole(number: f64) -> Option<i128> {
    // Past 64 bits it fits no kind of integer.
    (number.fract() == 0.0 && number.abs() <= 2f64.powi(64)).then_some(number as i128)
}

fn float(found: &Scalar<'_>) -> Option<f64> {
    match found {
        Scalar::Int(number) => Some(*number as f64),
        Scalar::Float(number) => Some(*number),
        Scalar::Text("NaN") => Some(f64::NAN),
        Scalar::Text("Infinity") => Some(f64::INFINITY),
        Scalar::Text("-Infinity") => Some(f64::NEG_INFINITY),
        Scalar::Text(text) if is_number(text) => text.parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

/// Whether a text is a number as JSON writes it (RFC 8259, section 6).
fn is_number(text: &str) -> bool {
    let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let text = text.strip_prefix('-').unwrap_or(text);
    let whole = digits(text);
    if whole == 0 || (whole > 1 && text.starts_with('0')) {
        return false;
    }
    let mut rest = &text[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let len = digits(fraction);
        if len == 0 {
            return false;
        }
        rest = &fraction[len..];
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let len = digits(exponent);
        if len == 0 {
            return false;
        }
        rest = &exponent[len..];
    }
    rest.is_empty()
}

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Base64 in either alphabet, with or without padding.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let engine = if text.contains(['-', '_']) { URL_SAFE } else { STANDARD };
    engine.decode(text).ok()
}

/// A map's key from its text.
pub(super) fn map_key(kind: &Kind, text: &str) -> Result<MapKey, String> {
    let number = Scalar::Text(text);
    let key = match kind {
        Kind::Bool => match text {
            "true" => Some(MapKey::Bool(true)),
            "false" => Some(MapKey::Bool(false)),
            _ => None,
        },
        Kind::String => Some(MapKey::String(text.to_owned())),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(&number).map(MapKey::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(&number).map(MapKey::I64),
        Kind::Uint32 | Kind::Fixed32 => integer(&number).map(MapKey::U32),
        Kind::Uint64 | Kind::Fixed64 => integer(&number).map(MapKey::U64),
        _ => None,
    };
    key.ok_or_else(|| format!("{} as the key, found {}", expected(kind), number.describe()))
}
