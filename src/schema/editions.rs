//! Files of editions, which `prost-reflect` 0.16 does not know, as files of proto3 (or proto2) with the same bytes on
//! the wire and the same JSON.
//!
//! What editions decide by features (`google.protobuf.FeatureSet` in descriptor.proto: presence, packing, groups) is
//! said with the means of proto3. What gets lost: that an enum is closed, and custom options in the pool. The files
//! that are given on are untouched.

use bytes::Bytes;
use prost_reflect::prost::{DecodeError, Message};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

use super::descriptors::{DescriptorsError, File};

/// The features as far as they matter here; 0 is not set.
#[derive(Clone, Copy, PartialEq, Message)]
struct Features {
    #[prost(int32, tag = "1")]
    field_presence: i32,
    #[prost(int32, tag = "3")]
    repeated_field_encoding: i32,
    #[prost(int32, tag = "5")]
    message_encoding: i32,
}

const IMPLICIT: i32 = 2;
const LEGACY_REQUIRED: i32 = 3;
const EXPANDED: i32 = 2;
const DELIMITED: i32 = 2;

impl Features {
    /// These where they are set, otherwise those of what is around.
    fn over(self, outer: Self) -> Self {
        let or = |own, outer| if own == 0 { outer } else { own };
        Self {
            field_presence: or(self.field_presence, outer.field_presence),
            repeated_field_encoding: or(self.repeated_field_encoding, outer.repeated_field_encoding),
            message_encoding: or(self.message_encoding, outer.message_encoding),
        }
    }
}

/// The options of a file, message and field, of which only the features are read: each has them under a number of its
/// own.
#[derive(Clone, PartialEq, Message)]
struct FileOptions {
    #[prost(message, optional, tag = "50")]
    features: Option<Features>,
}

#[derive(Clone, PartialEq, Message)]
struct MessageOptions {
    #[prost(message, optional, tag = "12")]
    features: Option<Features>,
}

#[derive(Clone, PartialEq, Message)]
struct FieldOptions {
    #[prost(message, optional, tag = "21")]
    features: Option<Features>,
}

/// A file beside its `FileDescriptorProto`: the same order, and only the features.
#[derive(Clone, PartialEq, Message)]
struct FileView {
    #[prost(message, repeated, tag = "4")]
    message: Vec<MessageView>,
    #[prost(message, repeated, tag = "7")]
    extension: Vec<FieldView>,
    #[prost(message, optional, tag = "8")]
    options: Option<FileOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct MessageView {
    #[prost(message, repeated, tag = "2")]
    field: Vec<FieldView>,
    #[prost(message, repeated, tag = "3")]
    nested: Vec<Self>,
    #[prost(message, repeated, tag = "6")]
    extension: Vec<FieldView>,
    #[prost(message, optional, tag = "7")]
    options: Option<MessageOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct FieldView {
    #[prost(message, optional, tag = "8")]
    options: Option<FieldOptions>,
}

/// The file for `prost-reflect`: itself, unless it is of an edition.
pub(super) fn lowered(file: &File) -> Result<Bytes, DescriptorsError> {
    if file.head.syntax != "editions" {
        return Ok(file.bytes.clone());
    }
    let broken = |error: DecodeError| DescriptorsError::NotAFile(error.to_string());
    let mut proto = FileDescriptorProto::decode(file.bytes.clone()).map_err(broken)?;
    let view = FileView::decode(file.bytes.clone()).map_err(broken)?;
    let features = view.options.and_then(|options| options.features).unwrap_or_default();
    // Proto3 wants enums to begin with 0, which those of old need not.
    let starts_at_zero = |values: &[prost_types::EnumValueDescriptorProto]| {
        values.first().is_none_or(|value| value.number() == 0)
    };
    let is_proto3 = proto.enum_type.iter().all(|kind| starts_at_zero(&kind.value))
        && proto.message_type.iter().all(|message| all_enums(message, &starts_at_zero));
    proto.syntax = Some(if is_proto3 { "proto3" } else { "proto2" }.into());
    for (message, view) in proto.message_type.iter_mut().zip(&view.message) {
        lower_message(message, view, features);
    }
    for (field, view) in proto.extension.iter_mut().zip(&view.extension) {
        lower_field(field, view, features, false);
    }
    Ok(proto.encode_to_vec().into())
}

fn all_enums(
    message: &DescriptorProto,
    test: &impl Fn(&[prost_types::EnumValueDescriptorProto]) -> bool,
) -> bool {
    message.enum_type.iter().all(|kind| test(&kind.value))
        && message.nested_type.iter().all(|nested| all_enums(nested, test))
}

fn lower_message(message: &mut DescriptorProto, view: &MessageView, outer: Features) {
    let own = view.options.as_ref().and_then(|options| options.features).unwrap_or_default();
    let features = own.over(outer);
    let is_entry = message.options.as_ref().is_some_and(|options| options.map_entry());
    let is_map_entry = |nested: &&DescriptorProto| nested.options.as_ref().is_some_and(|o| o.map_entry());
    let entries: Vec<_> =
        message.nested_type.iter().filter(is_map_entry).map(|m| m.name().to_owned()).collect();
    for (field, view) in message.field.iter_mut().zip(&view.field) {
        // Maps are never delimited, whatever is around them; neither are their values.
        let type_name = field.type_name().rsplit('.').next().unwrap_or_default();
        let is_map = field.label() == Label::Repeated && entries.iter().any(|entry| entry == type_name);
        lower_field(field, view, features, is_entry || is_map);
    }
    for (field, view) in message.extension.iter_mut().zip(&view.extension) {
        lower_field(field, view, features, false);
    }
    for (nested, view) in message.nested_type.iter_mut().zip(&view.nested) {
        lower_message(nested, view, features);
    }
}

fn lower_field(field: &mut FieldDescriptorProto, view: &FieldView, outer: Features, of_map: bool) {
    let own = view.options.as_ref().and_then(|options| options.features).unwrap_or_default();
    let features = own.over(outer);
    let is_message = field.r#type() == Type::Message;
    if field.label() == Label::Repeated {
        if !is_message && !matches!(field.r#type(), Type::String | Type::Bytes | Type::Group) {
            let packed = features.repeated_field_encoding != EXPANDED;
            field.options.get_or_insert_default().packed = Some(packed);
        }
    } else if features.field_presence == LEGACY_REQUIRED {
        field.set_label(Label::Required);
        field.proto3_optional = Some(true);
    } else if features.field_presence != IMPLICIT && field.oneof_index.is_none() && !of_map {
        // Presence is the default of every edition so far.
        field.proto3_optional = Some(true);
    }
    if is_message && features.message_encoding == DELIMITED && !of_map {
        field.set_type(Type::Group);
    }
}
