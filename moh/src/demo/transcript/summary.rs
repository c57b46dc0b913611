//! The end: whether everything arrived, and what did not.

use serde_json::json;

use super::{GREEN, RED, Style, Transcript, size};

impl Transcript {
    /// The end. Whether everything was as it had to be.
    pub(in super::super) fn close(&mut self, failure: Option<&anyhow::Error>) -> bool {
        self.flush();
        let why = match failure {
            Some(error) => Some(format!("{error:#}")),
            None if self.read != self.expected => Some(format!(
                "{} of {} texts were decrypted",
                self.read, self.expected
            )),
            None => self.counted.unexpected.first().cloned(),
        };
        if self.style == Style::Json {
            self.summary_for_programs(why.as_deref());
        } else {
            self.summary_for_people(why.as_deref());
        }
        why.is_none()
    }

    fn summary_for_programs(&self, why: Option<&str>) {
        let result = if why.is_none() { "ok" } else { "failed" };
        let counted = &self.counted;
        let mut more = json!({
            "result": result,
            "messages": self.wrote, "decrypted": self.read, "expected": self.expected,
            "devices": self.devices.len(), "requests": counted.requests,
            "between_providers": counted.between_providers, "bytes": counted.bytes,
            "requests_ok": counted.carried_out, "refusals": counted.refused,
            "refused_with": counted.refused_with,
            "seconds": self.started.elapsed().as_secs_f64(),
        });
        if let Some(why) = why {
            more["reason"] = why.into();
        }
        self.json("", "", "summary", &more);
    }

    fn summary_for_people(&self, why: Option<&str>) {
        let counted = &self.counted;
        self.line("");
        self.line("");
        match why {
            None => {
                let done = self.paint(GREEN, "everything arrived and was decrypted");
                self.line(&format!(
                    "{done}: {} texts, {} times read by {} devices",
                    self.wrote,
                    self.read,
                    self.devices.len()
                ));
            }
            Some(why) => {
                let failed = format!("failed in step {}, {:?}", self.step, self.title);
                self.line(&format!("{}: {why}", self.paint(RED, &failed)));
            }
        }
        let list = |names: &mut dyn Iterator<Item = &str>| names.collect::<Vec<_>>().join(" ");
        self.line(&format!(
            "{} kinds of requests on groups were carried out:",
            counted.carried_out.len()
        ));
        self.words(&list(&mut counted.carried_out.iter().copied()));
        self.line(&format!(
            "{} requests were refused, as they have to be, with {} codes:",
            counted.refused,
            counted.refused_with.len()
        ));
        self.words(&list(&mut counted.refused_with.iter().map(String::as_str)));
        self.line(&format!(
            "{} HTTPS requests, {} of them between the providers; {} in {:.1} s",
            counted.requests,
            counted.between_providers,
            size(counted.bytes),
            self.started.elapsed().as_secs_f64(),
        ));
        self.line(&format!(
            "({} of devices to their own providers, for their queues and KeyPackages, are left \
             out here)",
            counted.left_out
        ));
    }

    /// Words in lines of at most 100 columns.
    fn words(&self, text: &str) {
        let mut line = String::new();
        for word in text.split(' ') {
            if line.len() + 1 + word.len() > 96 {
                self.line(&format!("   {line}"));
                line.clear();
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(&format!("   {line}"));
    }
}
