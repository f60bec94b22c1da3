//! Active health checks: `grpc.health.v1.Health/Check` (gRPC `doc/health-checking.md`).

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{Channel, HealthSettings, Roster, Settings, Upstream, member::Member};

/// Checks a member, at once and then at each interval, for as long as there is a roster. On a connection of its own:
/// it must neither wait behind calls nor keep theirs open.
pub(super) async fn check(roster: Weak<Roster>, member: Arc<Member>, settings: HealthSettings) {
    let Some(channel) = roster.upgrade().map(|roster| channel(&roster, &member)) else { return };
    let mut client = HealthClient::new(channel);
    let mut silent = false;
    loop {
        let result = match timeout(settings.timeout, ask(&mut client, &settings.service)).await {
            Ok(Answer::Is(status)) if status == ServingStatus::Serving as i32 => Ok(()),
            Ok(Answer::Is(status)) => {
                let word = ServingStatus::try_from(status).map_or("UNKNOWN", |status| status.as_str_name());
                Err(format!("it says that it is {word}"))
            }
            // As gRPC's own clients do: who cannot be asked is not ill.
            Ok(Answer::Unimplemented) => {
                if !std::mem::replace(&mut silent, true) {
                    let text =
                        "it does not serve grpc.health.v1.Health and counts as healthy; leave `health` out";
                    tracing::warn!(endpoint = %member, "{text}");
                }
                Ok(())
            }
            Ok(Answer::Failed(error)) => Err(error),
            Err(_) => Err(format!("no answer within {:?}", settings.timeout)),
        };
        match roster.upgrade() {
            Some(roster) => roster.checked(&member, result),
            None => return,
        }
        sleep(spread(settings.interval)).await;
    }
}

enum Answer {
    Is(i32),
    Unimplemented,
    Failed(String),
}

async fn ask(client: &mut HealthClient<Channel>, service: &str) -> Answer {
    match client.check(HealthCheckRequest { service: service.to_owned() }).await {
        Ok(answer) => Answer::Is(answer.get_ref().status),
        Err(status) if status.code() == Code::Unimplemented => Answer::Unimplemented,
        Err(status) => Answer::Failed(format!("{:?}: {}", status.code(), status.message())),
    }
}

fn channel(roster: &Roster, member: &Member) -> Channel {
    let settings = Settings {
        health: None,
        ejection: None,
        retries: None,
        max_calls: None,
        max_pending: None,
        max_stream_age: None,
        ..Settings::clone(roster.settings())
    };
    Upstream::of(&Roster::alone(settings, member)).channel()
}

/// Up to a tenth less, so that instances and members are not in step.
fn spread(interval: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or_default();
    interval - interval.mul_f64(f64::from(random) / f64::from(u32::MAX) / 10.0)
}
