//! From the flags that few need to the body of `POST /containers/create`.

use serde_json::{Map, Value, json};

use crate::args::RestArgs;
use crate::create::{lines, pairs};
use crate::{Error, units};

fn usage<T>(text: String) -> Result<T, Error> {
    Err(Error::Usage(text))
}

/// `path:value` of single devices.
fn devices(list: &[String], key: &str, bytes: bool) -> Result<Value, Error> {
    list.iter()
        .map(|text| {
            let Some((path, value)) = text.rsplit_once(':').filter(|(path, _)| path.starts_with("/dev/"))
            else {
                return usage(format!("bad format for path: {text} (use /dev/path:value)"));
            };
            let value = if bytes { Some(units::bytes(value)?) } else { value.parse().ok() };
            match value.filter(|v| *v >= 0) {
                Some(value) => Ok(json!({"Path": path, key: value})),
                None => usage(format!("invalid rate for device: {text}. The rate must be a positive number")),
            }
        })
        .collect::<Result<Vec<Value>, Error>>()
        .map(Value::from)
}

/// A duration in nanoseconds.
fn duration(text: &str) -> Result<i64, Error> {
    match units::duration(text) {
        Some(nanoseconds) => Ok(nanoseconds),
        None => usage(format!("invalid duration '{text}' (use for example 500ms, 5s or 1m30s)")),
    }
}

fn health(args: &RestArgs) -> Result<Option<Value>, Error> {
    let mut map = Map::new();
    if let Some(command) = &args.health_cmd {
        map.insert("Test".into(), json!(["CMD-SHELL", command]));
    }
    for (key, text) in [
        ("Interval", &args.health_interval),
        ("Timeout", &args.health_timeout),
        ("StartPeriod", &args.health_start_period),
        ("StartInterval", &args.health_start_interval),
    ] {
        if let Some(text) = text {
            map.insert(key.into(), duration(text)?.into());
        }
    }
    if let Some(retries) = args.health_retries {
        map.insert("Retries".into(), retries.into());
    }
    if args.no_healthcheck {
        if !map.is_empty() {
            return usage("--no-healthcheck conflicts with --health-* options".into());
        }
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    Ok((!map.is_empty()).then(|| map.into()))
}

/// `all`, a number, or `key=value` words.
fn gpus(text: &str) -> Result<Value, Error> {
    let mut request = Map::from_iter([("Capabilities".to_owned(), json!([["gpu"]]))]);
    let mut count = Some(-1);
    for word in text.split(',').map(|w| w.trim_matches('"')) {
        match word.split_once('=') {
            None if word == "all" => count = Some(-1),
            None => match word.parse::<i64>() {
                Ok(number) => count = Some(number),
                Err(_) => {
                    return usage(format!("invalid --gpus '{text}': '{word}' is neither all nor a number"));
                }
            },
            Some(("count", "all")) => count = Some(-1),
            Some(("count", number)) => match number.parse::<i64>() {
                Ok(number) => count = Some(number),
                Err(_) => return usage(format!("invalid --gpus '{text}': count needs a number")),
            },
            Some(("device", id)) => {
                count = None;
                request.insert("DeviceIDs".into(), json!([id]));
            }
            Some(("driver", name)) => drop(request.insert("Driver".into(), name.into())),
            Some(("capabilities", name)) => {
                request.insert("Capabilities".into(), json!([["gpu", name]]));
            }
            Some((key, _)) => return usage(format!("unexpected key '{key}' in '{text}'")),
        }
    }
    if let Some(count) = count {
        request.insert("Count".into(), count.into());
    }
    Ok(request.into())
}

fn put(map: Option<&mut Map<String, Value>>, key: &str, value: Option<Value>) {
    if let (Some(map), Some(value)) = (map, value) {
        map.insert(key.to_owned(), value);
    }
}

/// Adds to a body what these flags say, but for those of the main network's endpoint.
pub(crate) fn add(whole: &mut Value, args: &RestArgs) -> Result<(), Error> {
    let text = |value: &Option<String>| value.clone().map(Value::from);
    let number = |value: Option<i64>| value.map(Value::from);
    let list = |list: &Vec<String>| (!list.is_empty()).then(|| json!(list));
    put(whole.as_object_mut(), "Domainname", text(&args.domainname));
    put(whole.as_object_mut(), "Healthcheck", health(args)?);
    if !args.label_file.is_empty() {
        let Value::Object(mut labels) = pairs(&lines(&args.label_file)?) else { return Ok(()) };
        // Labels of the command line have the last word.
        labels.extend(whole.get("Labels").and_then(Value::as_object).cloned().unwrap_or_default());
        put(whole.as_object_mut(), "Labels", Some(labels.into()));
    }
    let host = whole.get_mut("HostConfig").and_then(Value::as_object_mut);
    let Some(host) = host else { return Ok(()) };
    let devices = |list: &[String], key: &str, bytes: bool| {
        if list.is_empty() { Ok(None) } else { devices(list, key, bytes).map(Some) }
    };
    for (key, value) in [
        ("Annotations", (!args.annotation.is_empty()).then(|| pairs(&args.annotation))),
        ("BlkioWeight", args.blkio_weight.map(Value::from)),
        ("BlkioWeightDevice", devices(&args.blkio_weight_device, "Weight", false)?),
        ("BlkioDeviceReadBps", devices(&args.device_read_bps, "Rate", true)?),
        ("BlkioDeviceReadIOps", devices(&args.device_read_iops, "Rate", false)?),
        ("BlkioDeviceWriteBps", devices(&args.device_write_bps, "Rate", true)?),
        ("BlkioDeviceWriteIOps", devices(&args.device_write_iops, "Rate", false)?),
        ("CgroupnsMode", text(&args.cgroupns)),
        ("CpuPeriod", number(args.cpu_period)),
        ("CpuQuota", number(args.cpu_quota)),
        ("CpuRealtimePeriod", number(args.cpu_rt_period)),
        ("CpuRealtimeRuntime", number(args.cpu_rt_runtime)),
        ("CpusetMems", text(&args.cpuset_mems)),
        ("DeviceCgroupRules", list(&args.device_cgroup_rule)),
        ("DeviceRequests", args.gpus.as_deref().map(gpus).transpose()?.map(|g| json!([g]))),
        ("DnsOptions", list(&args.dns_option)),
        ("Isolation", text(&args.isolation)),
        ("Links", list(&args.link)),
        ("MemorySwappiness", number(args.memory_swappiness)),
        ("OomKillDisable", args.oom_kill_disable.then(|| true.into())),
        ("OomScoreAdj", number(args.oom_score_adj)),
        ("Runtime", text(&args.runtime)),
        ("StorageOpt", (!args.storage_opt.is_empty()).then(|| pairs(&args.storage_opt))),
        ("UsernsMode", text(&args.userns)),
        ("VolumeDriver", text(&args.volume_driver)),
    ] {
        put(Some(&mut *host), key, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_flags_become() {
        let args = RestArgs {
            annotation: vec!["a=b".into()],
            device_read_bps: vec!["/dev/sda:1mb".into()],
            blkio_weight_device: vec!["/dev/sda:200".into()],
            health_cmd: Some("true".into()),
            health_interval: Some("1m30s".into()),
            gpus: Some("2".into()),
            ..RestArgs::default()
        };
        let mut body = json!({"HostConfig": {}});
        add(&mut body, &args).unwrap();
        let host = &body["HostConfig"];
        assert_eq!(host["Annotations"], json!({"a": "b"}));
        assert_eq!(host["BlkioDeviceReadBps"], json!([{"Path": "/dev/sda", "Rate": 1_048_576}]));
        assert_eq!(host["BlkioWeightDevice"], json!([{"Path": "/dev/sda", "Weight": 200}]));
        assert_eq!(host["DeviceRequests"], json!([{"Count": 2, "Capabilities": [["gpu"]]}]));
        assert_eq!(
            body["Healthcheck"],
            json!({"Test": ["CMD-SHELL", "true"], "Interval": 90_000_000_000_i64})
        );
        for bad in [
            RestArgs { device_read_bps: vec!["sda:1".into()], ..RestArgs::default() },
            RestArgs { device_read_iops: vec!["/dev/sda:x".into()], ..RestArgs::default() },
            RestArgs { health_interval: Some("5".into()), ..RestArgs::default() },
            RestArgs { gpus: Some("many".into()), ..RestArgs::default() },
            RestArgs { no_healthcheck: true, health_cmd: Some("x".into()), ..RestArgs::default() },
        ] {
            assert!(add(&mut body, &bad).is_err(), "{bad:?}");
        }
    }
}
