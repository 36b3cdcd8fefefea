//! Keys and passwords from their files.

use std::path::Path;
use std::sync::Arc;

use waypost_zmtp::security::{CurveClient, CurveServer, PlainLogin, PlainUsers, PublicKey, SecretKey, Security};

use super::spec::SecuritySpec;
use crate::error::ServeError;

/// Reads what a mechanism needs.
///
/// # Errors
/// [`ServeError::Device`], which names the file but shows nothing of what is in it.
pub(super) fn load(spec: &SecuritySpec) -> Result<Security, ServeError> {
    if let Some(path) = &spec.plain_users {
        let lines = lines(path)?;
        let users = lines.iter().map(|line| pair(path, line)).collect::<Result<Vec<_>, _>>()?;
        return Ok(Security::PlainServer(Arc::new(PlainUsers::new(users))));
    }
    if let Some(path) = &spec.plain_login {
        let lines = lines(path)?;
        let [line] = &lines[..] else { return Err(wrong(path, "one line `user:password` is needed")) };
        let (user, password) = pair(path, line)?;
        let login = PlainLogin::new(&user, &password).ok_or_else(|| wrong(path, "name or password is too long"))?;
        return Ok(Security::PlainClient(Arc::new(login)));
    }
    let Some(path) = &spec.curve_secret else { return Ok(Security::Null) };
    let secret = secret_key(path)?;
    if let Some(server) = &spec.curve_server {
        let server = PublicKey::parse(server)
            .map_err(|e| ServeError::Device { what: "option `curve-server`".to_owned(), why: e.to_string() })?;
        return Ok(Security::CurveClient(Arc::new(CurveClient { secret, server })));
    }
    let clients = spec.curve_clients.as_deref().map(public_keys).transpose()?;
    Ok(Security::CurveServer(Arc::new(CurveServer { secret, clients })))
}

fn secret_key(path: &Path) -> Result<SecretKey, ServeError> {
    let lines = lines(path)?;
    let [line] = &lines[..] else { return Err(wrong(path, "one line with a key is needed")) };
    SecretKey::parse(line).map_err(|e| wrong(path, &e.to_string()))
}

fn public_keys(path: &Path) -> Result<Vec<PublicKey>, ServeError> {
    lines(path)?.iter().map(|line| PublicKey::parse(line).map_err(|e| wrong(path, &e.to_string()))).collect()
}

/// The lines of a file but for empty ones. `#` begins no comment: it is a digit of Z85.
fn lines(path: &Path) -> Result<Vec<String>, ServeError> {
    let text = std::fs::read_to_string(path).map_err(|e| wrong(path, &e.to_string()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn pair(path: &Path, line: &str) -> Result<(String, String), ServeError> {
    match line.split_once(':') {
        Some((user, password)) if !user.is_empty() => Ok((user.to_owned(), password.to_owned())),
        _ => Err(wrong(path, "a line is not `user:password`")),
    }
}

fn wrong(path: &Path, why: &str) -> ServeError {
    ServeError::Device { what: path.display().to_string(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> Option<std::path::PathBuf> {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    }

    #[test]
    fn files_become_mechanisms_and_mistakes_show_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let plain = SecuritySpec { plain_users: file(&dir, "u", "ann:x:y\n\nbob:\n"), ..SecuritySpec::default() };
        assert!(matches!(load(&plain).unwrap(), Security::PlainServer(users) if users.len() == 2));
        let secret = SecretKey::from_bytes([3; 32]);
        let curve = SecuritySpec {
            curve_secret: file(&dir, "k", &secret.reveal()),
            curve_server: Some(secret.public().to_string()),
            ..SecuritySpec::default()
        };
        assert!(matches!(load(&curve).unwrap(), Security::CurveClient(_)));
        let broken = SecuritySpec { curve_secret: file(&dir, "b", "hunter2"), ..SecuritySpec::default() };
        let error = load(&broken).unwrap_err().to_string();
        assert!(error.contains("40 characters") && !error.contains("hunter2"), "{error}");
        let broken = SecuritySpec { plain_users: file(&dir, "p", "hunter2"), ..SecuritySpec::default() };
        assert!(!load(&broken).unwrap_err().to_string().contains("hunter2"));
    }
}
