//! The smallest service there is.

use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{
    request,
    v1::{HelloReply, HelloRequest, greeter_server},
};

/// Says hello.
#[derive(Debug, Default)]
pub(super) struct Greeter;

#[tonic::async_trait]
impl greeter_server::Greeter for Greeter {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let delay = request::delay(request.metadata())?;
        let name = request.into_inner().name;
        if name.trim().is_empty() {
            let details = ErrorDetails::with_bad_request_violation("name", "must not be empty");
            return Err(Status::with_error_details(Code::InvalidArgument, "whom shall I greet?", details));
        }
        tokio::time::sleep(delay).await;
        Ok(Response::new(HelloReply { text: format!("Hello, {}!", name.trim()) }))
    }
}
