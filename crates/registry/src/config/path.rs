//! Paths: what names a value in a vhost.

use super::fault::Fault;
use super::limits::PATH_BYTES_MAX;

/// Longest routing key of AMQP, in bytes.
const ROUTING_KEY_BYTES_MAX: usize = 255;

/// A path that may be written to.
///
/// # Errors
/// [`Fault::BadPath`]: it is empty, too long, or has control characters.
pub fn checked(path: &str) -> Result<&str, Fault> {
    if path.is_empty() {
        return Err(Fault::BadPath("it is empty"));
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(Fault::BadPath("it is longer than 1024 bytes"));
    }
    if path.chars().any(char::is_control) {
        return Err(Fault::BadPath("it has control characters"));
    }
    Ok(path)
}

/// Namespace and key: what stands before the first slash, and what behind. A path that begins with a slash, or has
/// none, is a key of the nameless namespace.
#[must_use]
pub fn split(path: &str) -> (&str, &str) {
    match path.split_once('/') {
        Some((namespace, key)) if !namespace.is_empty() => (namespace, key),
        _ => ("", path),
    }
}

/// The path of a key in a namespace.
#[must_use]
pub fn join(namespace: &str, key: &str) -> String {
    if namespace.is_empty() { key.to_owned() } else { format!("{namespace}/{key}") }
}

/// The routing key under which a change is told: the path with dots for slashes, so that topic patterns see its parts,
/// cut to what AMQP can carry.
#[must_use]
pub fn routing_key(path: &str) -> String {
    let mut end = path.len().min(ROUTING_KEY_BYTES_MAX);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    path[..end].replace('/', ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_end_at_the_first_slash() {
        for (path, namespace, key) in
            [("cart/db/url", "cart", "db/url"), ("plain", "", "plain"), ("folder/", "folder", ""), ("/odd", "", "/odd")]
        {
            assert_eq!(split(path), (namespace, key), "{path}");
            assert_eq!(join(namespace, key), path);
        }
    }

    #[test]
    fn routing_keys_fit_and_are_cut_between_characters() {
        assert_eq!(routing_key("cart/db/url"), "cart.db.url");
        let long = "ü".repeat(200);
        assert_eq!(routing_key(&long), "ü".repeat(127));
    }

    #[test]
    fn paths_are_bounded() {
        assert!(checked(&"x".repeat(PATH_BYTES_MAX)).is_ok());
        for bad in [String::new(), "x".repeat(PATH_BYTES_MAX + 1), "a\nb".into()] {
            assert!(checked(&bad).is_err());
        }
    }
}
