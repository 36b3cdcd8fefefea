//! `waypost request`.

use std::io::{Read as _, Write as _};

use clap::Args;
use serde_json::{Value, json};

use super::Place;
use super::selector::Selector;
use crate::cli::http::Content;
use crate::cli::present::Format;
use crate::cli::time::seconds;
use crate::exit::Failure;

/// Arguments of `waypost request`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  waypost request cart '{\"add\": 7}' --type application/json
  echo hello | waypost request cart --zone eu-1 --timeout 2

The answer's body goes to standard output. Exit codes: 5 not permitted, 7 no server, 8 no answer in time.")]
pub struct RequestArgs {
    service: String,
    /// The request; without it, or with -, standard input
    body: Option<String>,
    /// Its content type
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    content_type: Option<String>,
    /// How long to wait for the answer, in seconds or with a unit (500ms, 15s, 2m); a request that is not answered by then is not delivered any more
    #[arg(long, default_value_t = 10.0, value_name = "TIME", value_parser = seconds)]
    timeout: f64,
    #[command(flatten)]
    selector: Selector,
    #[command(flatten)]
    place: Place,
}

impl RequestArgs {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let body = match self.body.as_deref() {
            Some(text) if text != "-" => text.as_bytes().to_vec(),
            _ => {
                let mut bytes = Vec::new();
                std::io::stdin().lock().read_to_end(&mut bytes)?;
                bytes
            }
        };
        let page = self.place.of(self.place.service(&self.service).at("request"));
        let milliseconds = format!("{}ms", (self.timeout * 1000.0).ceil().max(1.0));
        let page = self.selector.on(page).with("timeout", &milliseconds);
        let content = Content { content_type: self.content_type.as_deref(), bytes: &body };
        let answer = self.place.server.api().send("POST", &page, Some(content), &[])?;
        if self.place.server.output.output == Some(Format::Json) {
            let text = std::str::from_utf8(&answer.body).map(Value::from);
            let body = text.unwrap_or_else(|_| json!(answer.body));
            let content_type = answer.header("content-type");
            return self.place.server.output.item(&json!({ "content_type": content_type, "body": body }));
        }
        let mut out = std::io::stdout().lock();
        out.write_all(&answer.body)?;
        out.flush()?;
        Ok(())
    }
}
