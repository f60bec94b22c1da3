//! gRPC's content type.

/// Whether it is `application/grpc`, with a format behind `+` or parameters behind `;` or neither (gRPC
/// `doc/PROTOCOL-HTTP2.md`); `application/grpc-web` is not.
pub fn is_grpc(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    let Some((name, rest)) = content_type.split_at_checked(NAME.len()) else { return false };
    name.eq_ignore_ascii_case(NAME) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_or_parameters_may_follow_and_no_other_name() {
        for yes in
            ["application/grpc", "Application/GRPC+proto", "application/grpc;v=1", "application/grpc ;v=1"]
        {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in ["application/grpc-web", "application/grpcx", "application/grp", "", "text/html"] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }
}
