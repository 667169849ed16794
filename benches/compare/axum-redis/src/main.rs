//! The same service on axum and redis-rs: GET and POST of `/items?id=`, documents checked, half an hour to live.
//!
//! `PORT` and `REDIS_ADDR` say where. It has none of the limits, deadlines, ids and metrics that kioskd has.

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use axum::{Router, routing};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::env::var;

const SECONDS_TO_LIVE: u64 = 1800;

type Parameters = Query<HashMap<String, String>>;

#[tokio::main]
async fn main() {
    let address = var("REDIS_ADDR").expect("REDIS_ADDR is set");
    let client = redis::Client::open(format!("redis://{address}")).expect("an address");
    let redis = client.get_multiplexed_async_connection().await.expect("Redis is there");
    let service = Router::new().route("/items", routing::get(read).post(write)).with_state(redis);
    let port = var("PORT").expect("PORT is set");
    let listener =
        tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("a free port");
    // Not its default; without it pipelined responses wait for the acknowledgement of the ones before, up to 40 ms.
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("it is a TCP stream"));
    axum::serve(listener, service).await.expect("it accepts");
}

async fn read(
    State(mut redis): State<MultiplexedConnection>,
    Query(parameters): Parameters,
) -> Response {
    let Some(id) = parameters.get("id") else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let found: redis::RedisResult<Option<Vec<u8>>> = redis.get(format!("item:{id}")).await;
    match found {
        Ok(Some(document)) => {
            ([(header::CONTENT_TYPE, "application/json")], document).into_response()
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

async fn write(
    State(mut redis): State<MultiplexedConnection>,
    Query(parameters): Parameters,
    body: Bytes,
) -> StatusCode {
    let Some(id) = parameters.get("id") else {
        return StatusCode::BAD_REQUEST;
    };
    let Ok(document) = serde_json::from_slice::<Map<String, Value>>(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    let document = serde_json::to_vec(&document).expect("it was parsed just now");
    let written: redis::RedisResult<()> =
        redis.set_ex(format!("item:{id}"), document, SECONDS_TO_LIVE).await;
    if written.is_ok() { StatusCode::CREATED } else { StatusCode::BAD_GATEWAY }
}
