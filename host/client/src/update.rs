//! `update`: limits and restart policies of containers that are there.

use serde_json::{Map, Value};

use crate::args::UpdateArgs;
use crate::containers::for_each;
use crate::http::Client;
use crate::{Error, create, units};

/// The body of the request.
fn body(args: &UpdateArgs) -> Result<Value, Error> {
    let mut body = Map::new();
    for (key, value) in [
        ("CpuPeriod", args.cpu_period),
        ("CpuQuota", args.cpu_quota),
        ("CpuRealtimePeriod", args.cpu_rt_period),
        ("CpuRealtimeRuntime", args.cpu_rt_runtime),
        ("CpuShares", args.cpu_shares),
        ("PidsLimit", args.pids_limit),
        ("BlkioWeight", args.blkio_weight.map(Into::into)),
        ("NanoCpus", args.cpus.map(create::nano_cpus)),
    ] {
        if let Some(value) = value {
            body.insert(key.into(), value.into());
        }
    }
    for (key, value) in [
        ("Memory", &args.memory),
        ("MemoryReservation", &args.memory_reservation),
        ("MemorySwap", &args.memory_swap),
    ] {
        if let Some(text) = value {
            let bytes = if text == "-1" { -1 } else { units::bytes(text)? };
            body.insert(key.into(), bytes.into());
        }
    }
    for (key, value) in [("CpusetCpus", &args.cpuset_cpus), ("CpusetMems", &args.cpuset_mems)] {
        if let Some(text) = value {
            body.insert(key.into(), text.as_str().into());
        }
    }
    if let Some(policy) = &args.restart {
        body.insert("RestartPolicy".into(), create::restart_policy(policy)?);
    }
    if body.is_empty() {
        return Err(Error::Usage("you must provide one or more flags when using this command".into()));
    }
    Ok(body.into())
}

pub(crate) async fn update(client: &Client, args: UpdateArgs) -> Result<u8, Error> {
    let body = body(&args)?;
    for_each(&args.containers, async |name: String| {
        let answer = client.post(&format!("/containers/{name}/update"), &[], Some(&body)).await?;
        for warning in answer.get("Warnings").and_then(Value::as_array).into_iter().flatten() {
            eprintln!("{}", warning.as_str().unwrap_or_default());
        }
        Ok(Some(name))
    })
    .await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies() {
        let none = UpdateArgs {
            blkio_weight: None,
            cpu_period: None,
            cpu_quota: None,
            cpu_rt_period: None,
            cpu_rt_runtime: None,
            cpu_shares: None,
            cpus: None,
            cpuset_cpus: None,
            cpuset_mems: None,
            memory: None,
            memory_reservation: None,
            memory_swap: None,
            pids_limit: None,
            restart: None,
            containers: vec!["c".into()],
        };
        assert!(body(&none).is_err());
        let some = UpdateArgs {
            memory: Some("64m".into()),
            memory_swap: Some("-1".into()),
            cpus: Some(1.5),
            restart: Some("on-failure:3".into()),
            ..none
        };
        assert_eq!(
            body(&some).unwrap(),
            json!({"Memory": 67_108_864, "MemorySwap": -1, "NanoCpus": 1_500_000_000_i64,
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}})
        );
    }
}
