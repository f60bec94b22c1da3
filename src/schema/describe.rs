//! Descriptors as text for people: like the .proto file, but with full names, and without what nobody needs to call.

use std::fmt::{self, Write as _};

use prost_reflect::{
    Cardinality, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor, ServiceDescriptor, Syntax,
};

use super::{Descriptors, Schema, SchemaError};

impl Descriptors {
    /// A service, method (`package.Service/Method` or `package.Service.Method`), message, enum or extension as text;
    /// `None` when there is none of this name.
    pub fn describe(&self, symbol: &str) -> Option<String> {
        let pool = self.pool();
        let symbol = symbol.trim_start_matches(['.', '/']);
        if let Some(service) = pool.get_service_by_name(symbol) {
            return Some(service_text(&service));
        }
        if let Some(message) = pool.get_message_by_name(symbol) {
            return Some(message_text(&message));
        }
        if let Some(kind) = pool.get_enum_by_name(symbol) {
            return Some(enum_text(&kind));
        }
        if let Some(extension) = pool.get_extension_by_name(symbol) {
            return Some(extension_text(&extension));
        }
        let (service, method) = symbol.split_once('/').or_else(|| symbol.rsplit_once('.'))?;
        let service = pool.get_service_by_name(service)?;
        let method = service.methods().find(|candidate| candidate.name() == method)?;
        let mut text = format!("// {}\n{}\n", service.full_name(), method_line(&method));
        let (input, output) = (method.input(), method.output());
        text.push('\n');
        text.push_str(&message_text(&input));
        if output != input {
            text.push('\n');
            text.push_str(&message_text(&output));
        }
        Some(text)
    }
}

impl Schema {
    /// The services with their methods, as text. What cannot be had of a service is a comment.
    pub async fn overview(&self) -> Result<String, SchemaError> {
        let mut texts = Vec::new();
        for name in self.services().await? {
            texts.push(match self.descriptors(&name).await {
                Ok(descriptors) => descriptors.describe(&name).unwrap_or_default(),
                Err(error) => format!("service {name} {{\n  // {error}\n}}\n"),
            });
        }
        Ok(texts.join("\n"))
    }

    /// A service, method, message, enum or extension as text: see [`Descriptors::describe`].
    pub async fn describe(&self, symbol: &str) -> Result<String, SchemaError> {
        let mut services = self.services().await?;
        // Most symbols begin with their service or are in its package: look there first.
        let likeness = |name: &String| symbol.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        services.sort_by_key(|name| std::cmp::Reverse(likeness(name)));
        let mut names = services.clone();
        let mut failure = None;
        for service in &services {
            match self.descriptors(service).await {
                Ok(descriptors) => match descriptors.describe(symbol) {
                    Some(text) => return Ok(text),
                    None => {
                        let pool = descriptors.pool();
                        names.extend(pool.all_messages().map(|message| message.full_name().to_owned()));
                        let methods =
                            pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
                        names.extend(methods.map(|method| method.full_name().to_owned()));
                    }
                },
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        let near = |name: &String| strsim::normalized_damerau_levenshtein(name, symbol);
        let nearest = names.into_iter().max_by(|a, b| near(a).total_cmp(&near(b)));
        let near = nearest.filter(|name| near(name) >= 0.6);
        let unknown = || SchemaError::UnknownSymbol {
            upstream: self.name().to_owned(),
            symbol: symbol.to_owned(),
            near,
        };
        Err(failure.unwrap_or_else(unknown))
    }
}

/// `unary`, `client streaming`, `server streaming` or `bidirectional`.
pub(super) fn kind_of(method: &MethodDescriptor) -> &'static str {
    match (method.is_client_streaming(), method.is_server_streaming()) {
        (false, false) => "unary",
        (true, false) => "client streaming",
        (false, true) => "server streaming",
        (true, true) => "bidirectional",
    }
}

fn service_text(service: &ServiceDescriptor) -> String {
    let mut text = format!("service {} {{\n", service.full_name());
    for method in service.methods() {
        let _ = writeln!(text, "  {}", method_line(&method));
    }
    text.push_str("}\n");
    text
}

fn method_line(method: &MethodDescriptor) -> String {
    let stream = |yes: bool| if yes { "stream " } else { "" };
    let deprecated =
        if deprecated(method.method_descriptor_proto().options.as_ref().and_then(|o| o.deprecated)) {
            ", deprecated"
        } else {
            ""
        };
    format!(
        "rpc {}({}{}) returns ({}{}); // {}{deprecated}",
        method.name(),
        stream(method.is_client_streaming()),
        method.input().full_name(),
        stream(method.is_server_streaming()),
        method.output().full_name(),
        kind_of(method),
    )
}

fn deprecated(option: Option<bool>) -> bool {
    option.unwrap_or_default()
}

fn message_text(message: &MessageDescriptor) -> String {
    let mut text = format!("message {} {{\n", message.full_name());
    let mut fields: Vec<_> = message.fields().filter(|field| !in_oneof(field)).collect();
    fields.sort_by_key(FieldDescriptor::number);
    for field in fields {
        let _ = writeln!(text, "  {}", FieldLine(&field));
    }
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        let _ = writeln!(text, "  oneof {} {{", oneof.name());
        for field in oneof.fields() {
            let _ = writeln!(text, "    {}", FieldLine(&field));
        }
        text.push_str("  }\n");
    }
    for range in message.extension_ranges() {
        let _ = writeln!(text, "  extensions {} to {};", range.start, range.end - 1);
    }
    for extension in message.extensions() {
        let _ = writeln!(
            text,
            "  // extended by {} {} = {};",
            type_name(&extension.kind()),
            extension.full_name(),
            extension.number()
        );
    }
    text.push_str("}\n");
    text
}

fn in_oneof(field: &FieldDescriptor) -> bool {
    field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic())
}

fn extension_text(extension: &ExtensionDescriptor) -> String {
    let label = if extension.is_list() { "repeated " } else { "optional " };
    format!(
        "extend {} {{\n  {label}{} {} = {};\n}}\n",
        extension.containing_message().full_name(),
        type_name(&extension.kind()),
        extension.name(),
        extension.number()
    )
}

fn enum_text(kind: &EnumDescriptor) -> String {
    let mut text = format!("enum {} {{\n", kind.full_name());
    for value in &kind.enum_descriptor_proto().value {
        let _ = writeln!(text, "  {} = {};", value.name(), value.number());
    }
    text.push_str("}\n");
    text
}

fn type_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(kind) => kind.full_name().to_owned(),
        Kind::Double => "double".into(),
        Kind::Float => "float".into(),
        Kind::Int32 => "int32".into(),
        Kind::Int64 => "int64".into(),
        Kind::Uint32 => "uint32".into(),
        Kind::Uint64 => "uint64".into(),
        Kind::Sint32 => "sint32".into(),
        Kind::Sint64 => "sint64".into(),
        Kind::Fixed32 => "fixed32".into(),
        Kind::Fixed64 => "fixed64".into(),
        Kind::Sfixed32 => "sfixed32".into(),
        Kind::Sfixed64 => "sfixed64".into(),
        Kind::Bool => "bool".into(),
        Kind::String => "string".into(),
        Kind::Bytes => "bytes".into(),
    }
}

/// A field as in the .proto file.
struct FieldLine<'a>(&'a FieldDescriptor);

impl fmt::Display for FieldLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.0;
        let kind = field.kind();
        if let (true, Kind::Message(entry)) = (field.is_map(), &kind) {
            let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
            write!(f, "map<{}, {}>", type_name(&key), type_name(&value))?;
        } else {
            let proto2 = field.parent_file().syntax() == Syntax::Proto2;
            match field.cardinality() {
                Cardinality::Repeated => f.write_str("repeated ")?,
                Cardinality::Required => f.write_str("required ")?,
                Cardinality::Optional if in_oneof(field) => {}
                Cardinality::Optional if proto2 => f.write_str("optional ")?,
                Cardinality::Optional if field.supports_presence() && !matches!(kind, Kind::Message(_)) => {
                    f.write_str("optional ")?;
                }
                Cardinality::Optional => {}
            }
            f.write_str(&type_name(&kind))?;
        }
        write!(f, " {} = {}", field.name(), field.number())?;
        let proto = field.field_descriptor_proto();
        let mut options = Vec::new();
        if let Some(default) = &proto.default_value {
            options.push(match kind {
                Kind::String | Kind::Bytes => format!("default = {default:?}"),
                _ => format!("default = {default}"),
            });
        }
        if deprecated(proto.options.as_ref().and_then(|options| options.deprecated)) {
            options.push("deprecated = true".into());
        }
        if !options.is_empty() {
            write!(f, " [{}]", options.join(", "))?;
        }
        f.write_str(";")?;
        if field.json_name() != field.name() {
            write!(f, " // {:?} in JSON", field.json_name())?;
        }
        Ok(())
    }
}
