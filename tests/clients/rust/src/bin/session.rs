// SPDX-License-Identifier: Apache-2.0
//! The scripted session (tests/clients/README.md) by tonic.

use std::time::Duration;

use envgate_client::google::rpc::{BadRequest, ErrorInfo};
use envgate_client::tonic::{transport::Channel, Code, Request, Status};
use envgate_client::v1::{payload::Form, session_service_client::SessionServiceClient, *};
use envgate_client::{find_details, v1};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PAUSE: Duration = Duration::from_millis(150);

fn payload(json: String) -> Option<Payload> {
    Some(Payload { form: Some(Form::Json(json.into_bytes())) })
}

fn json(payload: &Option<Payload>) -> &str {
    match payload.as_ref().and_then(|p| p.form.as_ref()) {
        Some(Form::Json(bytes)) => std::str::from_utf8(bytes).unwrap(),
        _ => panic!("no JSON"),
    }
}

fn show(what: &str, r: &StepResult) {
    println!("{what} {} reward {:.2} done {} {}", r.step_index, r.reward(), r.done as u8, json(&r.observation));
}

fn step(session: &v1::Session, action: String, request_id: &str) -> StepRequest {
    StepRequest { session: session.name.clone(), action: payload(action), request_id: request_id.into(), ..Default::default() }
}

async fn create(sessions: &mut SessionServiceClient<Channel>, environment: &str) -> Result<v1::Session> {
    let request = CreateSessionRequest { environment: environment.into(), ..Default::default() };
    Ok(sessions.create_session(request).await?.into_inner())
}

fn info(status: &Status) -> ErrorInfo {
    find_details(status, "google.rpc.ErrorInfo").remove(0)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let target = std::env::args().nth(1).ok_or("usage: session ADDRESS")?;
    let mut sessions = SessionServiceClient::connect(format!("http://{target}")).await?;

    let session = create(&mut sessions, "cartpole").await?;
    println!("create {} {}", session.environment, session.state);
    let reset = |seed, episode: &str| ResetRequest {
        session: session.name.clone(),
        seed: Some(seed),
        episode_id: episode.into(),
        ..Default::default()
    };
    let mut result = sessions.reset(reset(7, "episode-1")).await?.into_inner();
    show("reset", &result);
    for i in 0..50 {
        if result.done {
            show("reset", sessions.reset(reset(8, "episode-2")).await?.get_ref());
        }
        let request = step(&session, format!("{{\"action\": {}}}", i % 2), &format!("step-{i}"));
        result = sessions.step(request).await?.into_inner();
        show("step", &result);
    }
    let state = sessions.get_state(GetStateRequest { session: session.name.clone(), ..Default::default() }).await?;
    println!("state {}", json(&state.get_ref().state));

    let refused = sessions.step(step(&session, "{\"action\": 7}".into(), "")).await.expect_err("it must fail");
    let bad: BadRequest = find_details(&refused, "google.rpc.BadRequest").remove(0);
    println!("invalid {} {} {} {}", refused.code() as i32, info(&refused).reason, info(&refused).domain, bad.field_violations[0].field);

    let slow = create(&mut sessions, "slow").await?;
    let late = step(&slow, "{\"message\": \"late\"}".into(), "late");
    let mut short = Request::new(late.clone());
    short.set_timeout(PAUSE);
    let late_status = sessions.step(short).await.expect_err("it must fail");
    // When tonic's own clock is first, it calls that CANCELLED.
    let expired = late_status.code() == Code::Cancelled && late_status.message() == "Timeout expired";
    println!("deadline {}", if expired { Code::DeadlineExceeded } else { late_status.code() } as i32);
    println!("collected {}", json(&sessions.step(late).await?.get_ref().metadata));
    let never = step(&slow, "{\"message\": \"never mind\"}".into(), "never");
    // A future that is dropped is a call cancelled, and has no status.
    let cancelled = tokio::time::timeout(PAUSE, sessions.step(never.clone())).await;
    println!("cancel {}", if cancelled.is_err() { 1 } else { 0 });
    println!("collected {}", json(&sessions.step(never).await?.get_ref().metadata));

    let echo = create(&mut sessions, "echo").await?;
    let data: String = ('a'..='z').cycle().take(3 << 20).collect();
    let large = sessions.step(step(&echo, format!("{{\"message\": \"large\", \"data\": \"{data}\"}}"), "")).await?;
    let large = json(&large.get_ref().observation).as_bytes();
    let hash = large.iter().fold(2166136261u32, |h, &b| (h ^ b as u32).wrapping_mul(16777619));
    println!("large {} {hash:08x}", large.len());

    for s in [&session, &slow, &echo] {
        sessions.close_session(CloseSessionRequest { name: s.name.clone() }).await?;
    }
    let gone = sessions.get_session(GetSessionRequest { name: session.name }).await.expect_err("it must fail");
    println!("closed {} {}", gone.code() as i32, info(&gone).reason);
    Ok(())
}
