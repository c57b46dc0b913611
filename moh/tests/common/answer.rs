//! HTTP, and what comes back.

use moh_messages::client_api::{ClientResponse, ClientResponseBody};
use moh_messages::{DsError, DsResponse, DsResponseBody, Message};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Version};

/// Requests to one provider.
#[derive(Clone)]
pub(crate) struct Http {
    pub(crate) client: reqwest::Client,
    pub(crate) base: String,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Http {
    /// A request without a body and its type.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.base))
            .timeout(super::PATIENCE)
    }

    /// A request as the protocol has it.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = self
            .request(method, path)
            .header("content-type", "application/octet-stream")
            .body(body.to_vec());
        Answer::to(request).await
    }

    /// The same with POST.
    pub(crate) async fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.ask("POST", path, body).await
    }

    /// The same, where the other side may go away.
    pub(crate) async fn try_post(&self, path: &str, body: &[u8]) -> reqwest::Result<Answer> {
        let request = self
            .request(Method::POST, path)
            .header("content-type", "application/octet-stream")
            .body(body.to_vec());
        Answer::try_to(request).await
    }
}

impl Answer {
    /// The answer to a request.
    pub(crate) async fn to(request: RequestBuilder) -> Self {
        Self::try_to(request).await.unwrap()
    }

    async fn try_to(request: RequestBuilder) -> reqwest::Result<Self> {
        let response = request.send().await?;
        Ok(Self {
            status: response.status().as_u16(),
            version: response.version(),
            headers: response.headers().clone(),
            body: response.bytes().await?.to_vec(),
        })
    }

    /// A header that is there, once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let values: Vec<_> = self.headers.get_all(name).iter().collect();
        let [value] = values[..] else {
            panic!("{name} is there {} times: {self:?}", values.len());
        };
        value.to_str().unwrap()
    }

    /// A message of the protocol, with this status.
    #[track_caller]
    pub(crate) fn message<T: Message>(&self, status: u16) -> T {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/octet-stream");
        T::decode(&self.body).unwrap()
    }

    /// The answer of the owner of a group.
    #[track_caller]
    pub(crate) fn done(&self) -> DsResponseBody {
        self.message::<DsResponse>(200).body
    }

    /// The answer of a client's own provider.
    #[track_caller]
    pub(crate) fn client_response(&self) -> ClientResponseBody {
        self.message::<ClientResponse>(200).body
    }

    /// The epoch, and the time, of an `ok`.
    #[track_caller]
    pub(crate) fn ok(&self) -> (u64, u64) {
        match self.done() {
            DsResponseBody::Ok { epoch, accepted_at } => (epoch, accepted_at),
            other => panic!("not ok: {other:?}"),
        }
    }

    /// The error of this name, with this status.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, name: &str) -> DsError {
        assert_eq!((self.status, &*self.error_name()), (status, name));
        assert_eq!(self.header("cache-control"), "no-store");
        match self.message::<DsResponse>(status).body {
            DsResponseBody::Error(error) => error,
            other => panic!("not an error: {other:?}"),
        }
    }

    /// A failure below the protocol, with this status.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].is_string() && problem["detail"].is_string());
    }

    /// `ok`, the name of the error, or something else.
    pub(crate) fn error_name(&self) -> String {
        match DsResponse::decode(&self.body).map(|response| response.body) {
            Ok(DsResponseBody::Error(error)) => error.code.to_string(),
            Ok(_) => "ok".to_owned(),
            Err(_) => self.text(),
        }
    }

    fn text(&self) -> String {
        match DsResponse::decode(&self.body).map(|response| response.body) {
            Ok(DsResponseBody::Error(error)) => error.to_string(),
            _ => String::from_utf8_lossy(&self.body).into_owned(),
        }
    }

    /// All that could tell two answers apart.
    pub(crate) fn everything(&self) -> (u16, Vec<(String, String)>, Vec<u8>) {
        let headers = self.headers.iter().filter(|(name, _)| *name != "date");
        let mut headers: Vec<_> = headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        headers.sort();
        (self.status, headers, self.body.clone())
    }
}
