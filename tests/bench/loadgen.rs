// loadgen: load and measuring client for any Docker-compatible API socket. std only.
// Build: rustc -O -o loadgen loadgen.rs     Run without arguments for the usage.
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

struct Conn { s: UnixStream, buf: Vec<u8>, pos: usize }
#[derive(Debug)]
struct Resp { status: u16, body: Vec<u8>, n: u64 }
type R<T> = Result<T, String>;

impl Conn {
    fn open(sock: &str) -> R<Conn> {
        let s = UnixStream::connect(sock).map_err(|e| format!("connect {sock}: {e}"))?;
        Ok(Conn { s, buf: Vec::with_capacity(1 << 16), pos: 0 })
    }
    fn fill(&mut self) -> R<usize> {
        if self.pos == self.buf.len() { self.buf.clear(); self.pos = 0; }
        let at = self.buf.len();
        self.buf.resize(at + (1 << 16), 0);
        let n = self.s.read(&mut self.buf[at..]).map_err(|e| e.to_string())?;
        self.buf.truncate(at + n);
        Ok(n)
    }
    fn line(&mut self) -> R<String> {
        loop {
            if let Some(i) = self.buf[self.pos..].iter().position(|&b| b == b'\n') {
                let l = String::from_utf8_lossy(&self.buf[self.pos..self.pos + i]).trim_end().to_string();
                self.pos += i + 1;
                return Ok(l);
            }
            if self.fill()? == 0 { return Err("connection closed".into()); }
        }
    }
    fn take(&mut self, mut n: usize, keep: bool, out: &mut Vec<u8>) -> R<()> {
        while n > 0 {
            if self.pos == self.buf.len() && self.fill()? == 0 { return Err("closed in body".into()); }
            let k = n.min(self.buf.len() - self.pos);
            if keep { out.extend_from_slice(&self.buf[self.pos..self.pos + k]); }
            self.pos += k; n -= k;
        }
        Ok(())
    }
    fn req(&mut self, m: &str, path: &str, body: &str) -> R<Resp> { self.req2(m, path, body, true) }
    fn req2(&mut self, m: &str, path: &str, body: &str, keep: bool) -> R<Resp> {
        let mut h = format!("{m} {path} HTTP/1.1\r\nHost: d\r\n");
        if !body.is_empty() { h += "Content-Type: application/json\r\n"; }
        if !body.is_empty() || m == "POST" { h += &format!("Content-Length: {}\r\n", body.len()); }
        h += "\r\n"; h += body;
        self.s.write_all(h.as_bytes()).map_err(|e| e.to_string())?;
        let l = self.line()?;
        let status: u16 = l.split(' ').nth(1).and_then(|x| x.parse().ok()).ok_or(format!("bad status line {l}"))?;
        let (mut len, mut chunked, mut raw) = (None, false, false);
        loop {
            let l = self.line()?;
            if l.is_empty() { break; }
            let lo = l.to_ascii_lowercase();
            if let Some(v) = lo.strip_prefix("content-length:") { len = v.trim().parse::<usize>().ok(); }
            if lo.starts_with("transfer-encoding:") && lo.contains("chunked") { chunked = true; }
            if lo.starts_with("content-type:") && lo.contains("raw-stream") { raw = true; }
        }
        let mut out = vec![]; let mut n = 0u64;
        if status == 204 || status == 304 || m == "HEAD" { }
        else if chunked {
            loop {
                let l = self.line()?;
                let k = usize::from_str_radix(l.split(';').next().unwrap().trim(), 16).map_err(|e| format!("chunk {l}: {e}"))?;
                self.take(k, keep, &mut out)?; n += k as u64;
                self.line()?;
                if k == 0 { break; }
            }
        } else if let Some(k) = len { self.take(k, keep, &mut out)?; n += k as u64; }
        else if raw || status == 101 || len.is_none() {
            loop { // until the peer closes
                let k = self.buf.len() - self.pos; n += k as u64;
                if keep { out.extend_from_slice(&self.buf[self.pos..]); }
                self.pos = self.buf.len();
                if self.fill()? == 0 { break; }
            }
        }
        Ok(Resp { status, body: out, n })
    }
    fn ok(&mut self, m: &str, path: &str, body: &str) -> R<Resp> {
        let r = self.req(m, path, body)?;
        if r.status >= 400 { return Err(format!("{m} {path}: {} {}", r.status, String::from_utf8_lossy(&r.body))); }
        Ok(r)
    }
}
fn jstr(b: &[u8], key: &str) -> Option<String> {
    let s = String::from_utf8_lossy(b); let k = format!("\"{key}\":");
    let i = s.find(&k)? + k.len(); let t = s[i..].trim_start();
    if let Some(t) = t.strip_prefix('"') { Some(t[..t.find('"')?].to_string()) } else { Some(t[..t.find(|c| c == ',' || c == '}')?].trim().to_string()) }
}
fn pct(v: &mut Vec<f64>, label: &str) -> String {
    if v.is_empty() { return format!("{label}: none"); }
    v.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let q = |p: f64| v[((v.len() as f64 * p) as usize).min(v.len() - 1)];
    format!("{label:<12} n={} p50={:.3} p99={:.3} min={:.3} max={:.3} mean={:.3} ms", v.len(), q(0.5), q(0.99), v[0], v[v.len() - 1], v.iter().sum::<f64>() / v.len() as f64)
}
// cpu seconds (own, and with waited-for children) and PSS/RSS (KiB) by process name prefix
struct Use { procs: usize, cpu: f64, cpuc: f64, pss: u64, rss: u64, anon: u64, threads: u64, fds: u64 }
fn usage(names: &[String], mem: bool) -> BTreeMap<String, Use> {
    let mut m = BTreeMap::new();
    for e in std::fs::read_dir("/proc").unwrap().flatten() {
        let p = e.path();
        if !e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) { continue; }
        let Ok(st) = std::fs::read_to_string(p.join("stat")) else { continue };
        let (Some(a), Some(b)) = (st.find('('), st.rfind(')')) else { continue };
        let comm = &st[a + 1..b];
        let Some(n) = names.iter().find(|n| comm == &n[..n.len().min(15)] || (n.ends_with('*') && comm.starts_with(n.trim_end_matches('*')))) else { continue };
        let f: Vec<&str> = st[b + 2..].split(' ').collect();
        let t = |i: usize| f[i].parse::<f64>().unwrap_or(0.0) / 100.0;
        let u = m.entry(n.clone()).or_insert(Use { procs: 0, cpu: 0., cpuc: 0., pss: 0, rss: 0, anon: 0, threads: 0, fds: 0 });
        u.procs += 1; u.cpu += t(11) + t(12); u.cpuc += t(13) + t(14);
        u.threads += f[17].parse::<u64>().unwrap_or(0);
        if mem {
            u.fds += std::fs::read_dir(p.join("fd")).map(|d| d.count() as u64).unwrap_or(0);
            if let Ok(s) = std::fs::read_to_string(p.join("smaps_rollup")) {
                for l in s.lines() {
                    let mut w = l.split_whitespace();
                    let (k, v) = (w.next().unwrap_or(""), w.next().and_then(|x| x.parse::<u64>().ok()).unwrap_or(0));
                    match k { "Pss:" => u.pss += v, "Rss:" => u.rss += v, "Pss_Anon:" => u.anon += v, _ => {} }
                }
            }
        }
    }
    m
}
fn totalcpu(names: &[String]) -> (f64, f64) { usage(names, false).values().fold((0., 0.), |a, u| (a.0 + u.cpu, a.1 + u.cpuc)) }
fn busy() -> f64 { // seconds of cpu of the whole machine, without idle, iowait and steal
    let s = std::fs::read_to_string("/proc/stat").unwrap(); let v: Vec<f64> = s.lines().next().unwrap().split_whitespace().skip(1).map(|x| x.parse().unwrap()).collect();
    (v[0] + v[1] + v[2] + v[5] + v[6]) / 100.0
}
struct Args { pos: Vec<String>, opt: BTreeMap<String, String> }
impl Args {
    fn get(&self, k: &str, d: &str) -> String { self.opt.get(k).cloned().unwrap_or(d.into()) }
    fn num(&self, k: &str, d: usize) -> usize { self.opt.get(k).map(|x| x.parse().expect("number")).unwrap_or(d) }
}
fn body(a: &Args, cmd: &str) -> String {
    let net = a.get("net", "none");
    let mut hc = format!("\"NetworkMode\":\"{net}\"");
    if let Some(l) = a.opt.get("log") { hc += &format!(",\"LogConfig\":{{\"Type\":\"{l}\",\"Config\":{{}}}}"); }
    let cmd = cmd.split(' ').map(|x| format!("\"{x}\"")).collect::<Vec<_>>().join(",");
    format!("{{\"Image\":\"{}\",\"Cmd\":[{cmd}],\"HostConfig\":{{{hc}}}}}", a.get("image", "busybox"))
}
fn create(c: &mut Conn, b: &str) -> R<String> { let r = c.ok("POST", "/containers/create", b)?; jstr(&r.body, "Id").ok_or("no Id".into()) }
fn kill_rm(sock: &str, ids: Vec<String>, par: usize) {
    let q = Arc::new(Mutex::new(ids));
    let hs: Vec<_> = (0..par).map(|_| { let q = q.clone(); let sock = sock.to_string(); std::thread::spawn(move || {
        let Ok(mut c) = Conn::open(&sock) else { return };
        loop { let Some(id) = q.lock().unwrap().pop() else { return }; let _ = c.req("POST", &format!("/containers/{id}/kill"), ""); if let Err(e) = c.ok("DELETE", &format!("/containers/{id}?force=1&v=1"), "") { eprintln!("rm: {e}"); if let Ok(n) = Conn::open(&sock) { c = n; } } }
    }) }).collect();
    for h in hs { let _ = h.join(); }
}
fn cycle(sock: &str, a: &Args, names: &[String]) -> R<()> {
    let (c, n) = (a.num("c", 1), a.num("n", 50));
    let b = body(a, &a.get("cmd", "true")); let pause = Duration::from_millis(a.num("pause", 0) as u64);
    let left = Arc::new(AtomicUsize::new(n)); let all = Arc::new(Mutex::new(vec![vec![]; 5])); let errs = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    let (cpu0, bz0, t0) = (totalcpu(names), busy(), Instant::now());
    let hs: Vec<_> = (0..c).map(|_| { let (left, all, b, sock, errs) = (left.clone(), all.clone(), b.clone(), sock.to_string(), errs.clone());
        std::thread::spawn(move || { let mut k = Conn::open(&sock).unwrap(); let mut mine: Vec<[f64; 5]> = vec![];
            while left.fetch_update(SeqCst, SeqCst, |x| x.checked_sub(1)).is_ok() {
                let mut go = || -> R<[f64; 5]> {
                    std::thread::sleep(pause);
                    let t = Instant::now(); let ms = |t: Instant| t.elapsed().as_secs_f64() * 1e3;
                    let id = create(&mut k, &b)?; let x1 = ms(t);
                    if let Err(e) = k.ok("POST", &format!("/containers/{id}/start"), "") { let _ = k.req("DELETE", &format!("/containers/{id}?force=1"), ""); return Err(e); } let x2 = ms(t);
                    k.ok("POST", &format!("/containers/{id}/wait"), "")?; let x3 = ms(t);
                    k.ok("DELETE", &format!("/containers/{id}"), "")?; let x4 = ms(t);
                    Ok([x1, x2 - x1, x3 - x2, x4 - x3, x4])
                };
                match go() { Ok(v) => mine.push(v), Err(e) => { let e = e.chars().filter(|c| !c.is_ascii_hexdigit()).collect::<String>(); *errs.lock().unwrap().entry(e).or_default() += 1; if let Ok(n) = Conn::open(&sock) { k = n; } } }
            }
            let mut a = all.lock().unwrap(); for v in mine { for i in 0..5 { a[i].push(v[i]); } }
        }) }).collect();
    for h in hs { h.join().unwrap(); }
    let el = t0.elapsed().as_secs_f64(); let cpu1 = totalcpu(names); let bz = busy() - bz0;
    let mut v = all.lock().unwrap(); let done = v[4].len();
    println!("cycle net={} c={c} n={n} ok={done}: {:.2} containers/s, machine cpu {:.1} ms/container, engine procs own cpu {:.1} ms/container", a.get("net", "none"), done as f64 / el, bz * 1e3 / done.max(1) as f64, (cpu1.0 - cpu0.0) * 1e3 / done.max(1) as f64);
    for (i, nm) in ["create", "start", "wait", "delete", "total"].iter().enumerate() { println!("  {}", pct(&mut v[i], nm)); }
    for (e, k) in errs.lock().unwrap().iter() { println!("  error x{k}: {}", e.chars().take(300).collect::<String>()); }
    Ok(())
}
fn exec(sock: &str, a: &Args) -> R<()> {
    let mut k = Conn::open(sock)?; let n = a.num("n", 50);
    let id = create(&mut k, &body(a, "sleep 100000"))?; k.ok("POST", &format!("/containers/{id}/start"), "")?;
    let mut v = vec![vec![]; 4];
    let cmd = a.get("cmd", "true");
    for i in 0..n + 3 {
        let t = Instant::now(); let ms = |t: Instant| t.elapsed().as_secs_f64() * 1e3;
        let r = k.ok("POST", &format!("/containers/{id}/exec"), &format!("{{\"Cmd\":[\"{cmd}\"],\"AttachStdout\":true,\"AttachStderr\":true}}"))?;
        let e = jstr(&r.body, "Id").ok_or("no exec id")?; let x1 = ms(t);
        let mut k2 = Conn::open(sock)?;
        let r = k2.req("POST", &format!("/exec/{e}/start"), "{\"Detach\":false,\"Tty\":false}")?; if r.status >= 400 { return Err(format!("exec start {}", r.status)); }
        let x2 = ms(t);
        let r = k.ok("GET", &format!("/exec/{e}/json"), "")?; let x3 = ms(t);
        if jstr(&r.body, "ExitCode").as_deref() != Some("0") { println!("  exit code at once: {:?}", jstr(&r.body, "ExitCode")); }
        if i >= 3 { v[0].push(x1); v[1].push(x2 - x1); v[2].push(x3 - x2); v[3].push(x3); }
    }
    println!("exec {cmd} n={n}");
    for (i, nm) in ["exec create", "start+eof", "inspect", "total"].iter().enumerate() { println!("  {}", pct(&mut v[i], nm)); }
    kill_rm(sock, vec![id], 1); Ok(())
}
fn get(sock: &str, a: &Args, names: &[String]) -> R<()> {
    let path = a.pos.get(1).ok_or("get PATH")?.clone(); let c = a.num("c", 1); let d = Duration::from_secs_f64(a.get("d", "3").parse().unwrap());
    let stop = Arc::new(AtomicBool::new(false)); let all = Arc::new(Mutex::new(vec![])); let bytes = Arc::new(AtomicUsize::new(0));
    let (cpu0, t0) = (totalcpu(names), Instant::now());
    let hs: Vec<_> = (0..c).map(|_| { let (stop, all, path, sock, bytes) = (stop.clone(), all.clone(), path.clone(), sock.to_string(), bytes.clone());
        std::thread::spawn(move || { let mut k = Conn::open(&sock).unwrap(); let mut m = vec![];
            while !stop.load(Relaxed) { let t = Instant::now(); let r = k.req2("GET", &path, "", false).unwrap(); m.push(t.elapsed().as_secs_f64() * 1e3); bytes.store(r.n as usize, Relaxed); if r.status != 200 { panic!("status {}", r.status); } }
            all.lock().unwrap().append(&mut m); }) }).collect();
    std::thread::sleep(d); stop.store(true, Relaxed); for h in hs { h.join().unwrap(); }
    let el = t0.elapsed().as_secs_f64(); let mut v = all.lock().unwrap(); let n = v.len();
    println!("get {path} c={c} body={}B: {:.0} req/s, engine cpu {:.1} us/req\n  {}", bytes.load(Relaxed), n as f64 / el, (totalcpu(names).0 - cpu0.0) * 1e6 / n as f64, pct(&mut v, "latency"));
    Ok(())
}
fn report(names: &[String], n: usize, base: &mut Option<u64>) {
    let u = usage(names, true); let (mut p, mut r, mut an) = (0, 0, 0);
    for (k, x) in &u { println!("    {k}: procs={} pss={:.1}MiB (anon {:.1}) rss={:.1}MiB threads={} fds={}", x.procs, x.pss as f64 / 1024., x.anon as f64 / 1024., x.rss as f64 / 1024., x.threads, x.fds); p += x.pss; r += x.rss; an += x.anon; }
    let b = *base.get_or_insert(p);
    println!("  N={n}: engine pss={:.1} MiB (anon {:.1}) rss={:.1} MiB; pss growth per container {:.2} MiB", p as f64 / 1024., an as f64 / 1024., r as f64 / 1024., if n > 0 { (p as f64 - b as f64) / 1024. / n as f64 } else { 0. });
}
fn density(sock: &str, a: &Args, names: &[String]) -> R<()> {
    let steps: Vec<usize> = a.get("steps", "100,300,1000").split(',').map(|x| x.parse().unwrap()).collect(); let par = a.num("c", 4);
    let b = body(a, &a.get("cmd", "sleep 100000")); let ids = Arc::new(Mutex::new(vec![])); let mut base = None; let mut k = Conn::open(sock)?;
    println!("density net={}", a.get("net", "none")); report(names, 0, &mut base);
    let single = |k: &mut Conn, n: usize| -> R<()> { // 10 one-by-one starts at this N
        let (mut v, mut w) = (vec![], vec![]);
        for _ in 0..10 { let t = Instant::now(); let id = create(k, &b)?; let x = t.elapsed().as_secs_f64() * 1e3; k.ok("POST", &format!("/containers/{id}/start"), "")?; v.push(t.elapsed().as_secs_f64() * 1e3); w.push(x); let _ = k.req("POST", &format!("/containers/{id}/kill"), ""); k.ok("DELETE", &format!("/containers/{id}?force=1"), "")?; }
        println!("  N={n}: {}\n  N={n}: {}", pct(&mut w, "create"), pct(&mut v, "create+start")); Ok(()) };
    single(&mut k, 0)?;
    let mut failed = None;
    for &s in &steps {
        let have = ids.lock().unwrap().len(); let left = Arc::new(AtomicUsize::new(s - have)); let (t0, bz) = (Instant::now(), busy()); let err = Arc::new(Mutex::new(None));
        let hs: Vec<_> = (0..par).map(|_| { let (left, ids, b, sock, err) = (left.clone(), ids.clone(), b.clone(), sock.to_string(), err.clone()); std::thread::spawn(move || { let mut k = Conn::open(&sock).unwrap();
            while err.lock().unwrap().is_none() && left.fetch_update(SeqCst, SeqCst, |x| x.checked_sub(1)).is_ok() {
                let r = (|| { let id = create(&mut k, &b)?; ids.lock().unwrap().push(id.clone()); k.ok("POST", &format!("/containers/{id}/start"), "") })();
                if let Err(e) = r { *err.lock().unwrap() = Some(e); } } }) }).collect();
        for h in hs { h.join().unwrap(); }
        let n = ids.lock().unwrap().len(); let el = t0.elapsed().as_secs_f64();
        println!("  N={n}: +{} in {el:.1}s with {par} clients = {:.2}/s, machine cpu {:.1} ms each", n - have, (n - have) as f64 / el, (busy() - bz) * 1e3 / (n - have).max(1) as f64);
        if let Some(e) = err.lock().unwrap().take() { println!("  FAILED at {n}: {}", e.chars().take(400).collect::<String>()); failed = Some(()); }
        report(names, n, &mut base);
        let _ = single(&mut k, n).map_err(|e| println!("  single: {e}"));
        for p in ["/containers/json", "/containers/json?all=1"] { let mut v = vec![]; let mut nb = 0; for _ in 0..20 { let t = Instant::now(); nb = k.req2("GET", p, "", false)?.n; v.push(t.elapsed().as_secs_f64() * 1e3); } println!("  N={n}: GET {p} {nb}B {}", pct(&mut v, "")); }
        let (c0, t) = (totalcpu(names), Instant::now()); std::thread::sleep(Duration::from_secs(a.num("idle", 10) as u64)); println!("  N={n}: idle engine cpu {:.2} % of one core", (totalcpu(names).0 - c0.0) / t.elapsed().as_secs_f64() * 100.);
        if failed.is_some() { break; }
    }
    let v = std::mem::take(&mut *ids.lock().unwrap());
    if a.opt.contains_key("keep") { println!("  kept {}", v.len()); return Ok(()); }
    let (n, t) = (v.len(), Instant::now()); kill_rm(sock, v, par); println!("  removed {n} in {:.1}s = {:.1}/s", t.elapsed().as_secs_f64(), n as f64 / t.elapsed().as_secs_f64()); 
    std::thread::sleep(Duration::from_secs(5)); report(names, 0, &mut base); Ok(())
}
// log: one container writes --mb MiB of ~100-byte lines; then reads back with GET logs
fn logs(sock: &str, a: &Args, names: &[String]) -> R<()> {
    let mb = a.num("mb", 1024); let mut k = Conn::open(sock)?; let b = body(a, &a.get("cmd", &format!("/logspew {mb}")));
    let id = create(&mut k, &b)?; let (c0, bz, t) = (usage(names, false), busy(), Instant::now());
    k.ok("POST", &format!("/containers/{id}/start"), "")?; k.ok("POST", &format!("/containers/{id}/wait"), "")?;
    let el = t.elapsed().as_secs_f64(); let c1 = usage(names, false);
    println!("logs driver={} {mb} MiB: {el:.2} s = {:.1} MB/s, machine cpu {:.2} s", a.get("log", "default"), mb as f64 * 1.048576 / el, busy() - bz);
    for (n, u) in &c1 { println!("    {n}: {:.2} s cpu", u.cpu - c0.get(n).map(|x| x.cpu).unwrap_or(0.)); }
    for q in ["stdout=1&stderr=1", "stdout=1&stderr=1&tail=100"] {
        let mut v = vec![];
        for _ in 0..a.num("reads", 1) { let mut r = Conn::open(sock)?; let (t, c0) = (Instant::now(), totalcpu(names)); let x = r.req2("GET", &format!("/containers/{id}/logs?{q}"), "", false)?; let e = t.elapsed().as_secs_f64();
        println!("  read {q}: status {} {} bytes in {e:.3} s = {:.1} MB/s, engine cpu {:.2} s", x.status, x.n, x.n as f64 / 1e6 / e, totalcpu(names).0 - c0.0); v.push(e); }
    }
    if a.opt.contains_key("keep") { println!("  kept {id}"); } else { kill_rm(sock, vec![id], 1); } Ok(())
}
// attach: one container writes --mb MiB while a client is attached to it
fn attach(sock: &str, a: &Args, names: &[String]) -> R<()> {
    let mb = a.num("mb", 1024); let mut k = Conn::open(sock)?; let b = body(a, &a.get("cmd", &format!("/logspew {mb}")));
    let id = create(&mut k, &b)?; let (c0, bz) = (usage(names, false), busy());
    let mut r = Conn::open(sock)?; let path = format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1");
    let h = std::thread::spawn(move || r.req2("POST", &path, "", false).map(|x| x.n));
    std::thread::sleep(Duration::from_millis(200)); let t = Instant::now();
    k.ok("POST", &format!("/containers/{id}/start"), "")?; let n = h.join().map_err(|_| "reader")??; let el = t.elapsed().as_secs_f64();
    println!("attach driver={} {mb} MiB: {n} bytes in {el:.2} s = {:.1} MB/s, machine cpu {:.2} s", a.get("log", "default"), n as f64 / 1e6 / el, busy() - bz);
    for (m, u) in &usage(names, false) { println!("    {m}: {:.2} s cpu", u.cpu - c0.get(m).map(|x| x.cpu).unwrap_or(0.)); }
    kill_rm(sock, vec![id], 1); Ok(())
}
// execs: many short execs one after another; what they leave behind
fn execs(sock: &str, a: &Args, names: &[String]) -> R<()> {
    let mut k = Conn::open(sock)?; let n = a.num("n", 10000);
    let id = create(&mut k, &body(a, "sleep 100000"))?; k.ok("POST", &format!("/containers/{id}/start"), "")?;
    let show = |what: &str| { for (m, u) in &usage(names, true) { println!("    {what} {m}: pss={:.2} MiB (anon {:.2}) threads={} fds={}", u.pss as f64 / 1024., u.anon as f64 / 1024., u.threads, u.fds); } };
    let mut v = vec![]; let (mut c0, mut t0) = (totalcpu(names), Instant::now());
    for i in 0..n + 1000 {
        if i == 1000 { show("after 1000"); c0 = totalcpu(names); t0 = Instant::now(); }
        let t = Instant::now();
        let r = k.ok("POST", &format!("/containers/{id}/exec"), "{\"Cmd\":[\"true\"],\"AttachStdout\":true,\"AttachStderr\":true}")?;
        let e = jstr(&r.body, "Id").ok_or("no exec id")?; let mut k2 = Conn::open(sock)?;
        let r = k2.req("POST", &format!("/exec/{e}/start"), "{\"Detach\":false,\"Tty\":false}")?; if r.status >= 400 { return Err(format!("exec start {}", r.status)); }
        if i >= 1000 { v.push(t.elapsed().as_secs_f64() * 1e3); }
    }
    let el = t0.elapsed().as_secs_f64(); let c1 = totalcpu(names);
    println!("execs n={n}: {:.0}/s, engine cpu {:.2} ms each (with children {:.2})", n as f64 / el, (c1.0 - c0.0) * 1e3 / n as f64, (c1.0 + c1.1 - c0.0 - c0.1) * 1e3 / n as f64);
    println!("  {}", pct(&mut v, "create+start+eof")); show("after all"); kill_rm(sock, vec![id], 1); Ok(())
}
// followers: --n clients follow logs, as many follow events; they go without a word (--tcp ADDRESS: with what they were sent unread,
// which resets the connection). With --hold they stay until they are killed.
fn followers(sock: &str, a: &Args, names: &[String]) -> R<()> {
    let n = a.num("n", 1000); let mut k = Conn::open(sock)?;
    let id = create(&mut k, &body(a, "sh -c while\u{1}:;do\u{1}echo\u{1}line;sleep\u{1}1;done").replace('\u{1}', " "))?; k.ok("POST", &format!("/containers/{id}/start"), "")?;
    let show = |what: &str| { for (m, u) in &usage(names, true) { println!("    {what} {m}: pss={:.2} MiB (anon {:.2}) threads={} fds={}", u.pss as f64 / 1024., u.anon as f64 / 1024., u.threads, u.fds); } };
    show("before"); let tcp = a.opt.get("tcp").cloned();
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: d\r\n\r\n");
    for round in 0..a.num("rounds", 2) {
        let mut held: Vec<Box<dyn Read>> = vec![];
        for i in 0..2 * n {
            let path = if i % 2 == 0 { format!("/containers/{id}/logs?follow=1&stdout=1") } else { "/events".to_string() };
            if let Some(t) = &tcp { let mut s = std::net::TcpStream::connect(t).map_err(|e| e.to_string())?; s.write_all(ask(&path).as_bytes()).map_err(|e| e.to_string())?; held.push(Box::new(s)); }
            else { let mut s = UnixStream::connect(sock).map_err(|e| e.to_string())?; s.write_all(ask(&path).as_bytes()).map_err(|e| e.to_string())?; held.push(Box::new(s)); }
        }
        std::thread::sleep(Duration::from_secs(3)); show(&format!("round {round}, all there"));
        if a.opt.contains_key("hold") { println!("holding"); std::thread::sleep(Duration::from_secs(10000)); }
        drop(held); let t = Instant::now();
        let base = 60; loop { let f: u64 = usage(names, true).values().map(|u| u.fds).sum(); if f < n as u64 / 2 + base || t.elapsed().as_secs() > 30 { break; } std::thread::sleep(Duration::from_millis(100)); }
        println!("    gone after {:.1} s", t.elapsed().as_secs_f64()); std::thread::sleep(Duration::from_secs(2)); show(&format!("round {round}, gone"));
    }
    kill_rm(sock, vec![id], 1); Ok(())
}
// stats: --n running containers; a client for each follows its statistics for --d seconds
fn stats(sock: &str, a: &Args, names: &[String]) -> R<()> {
    let n = a.num("n", 200); let d = a.num("d", 10) as u64; let mut k = Conn::open(sock)?; let mut ids = vec![];
    for _ in 0..n { let id = create(&mut k, &body(a, "sleep 100000"))?; k.ok("POST", &format!("/containers/{id}/start"), "")?; ids.push(id); }
    let mut held = vec![]; for id in &ids { let mut c = Conn::open(sock)?; c.s.write_all(format!("GET /containers/{id}/stats HTTP/1.1\r\nHost: d\r\n\r\n").as_bytes()).map_err(|e| e.to_string())?; c.s.set_nonblocking(true).map_err(|e| e.to_string())?; held.push(c); }
    let drain = |held: &mut Vec<Conn>| { let mut n = 0; for c in held.iter_mut() { let mut b = [0u8; 65536]; while let Ok(k) = c.s.read(&mut b) { if k == 0 { break; } n += b[..k].windows(8).filter(|w| *w == b"\"preread").count(); } } n };
    std::thread::sleep(Duration::from_secs(3)); drain(&mut held); let c0 = totalcpu(names); let t = Instant::now(); let mut got = 0;
    while t.elapsed().as_secs() < d { std::thread::sleep(Duration::from_millis(500)); got += drain(&mut held); }
    let el = t.elapsed().as_secs_f64();
    println!("stats of {n} containers: {:.0} samples/s, engine cpu {:.1} ms a second", got as f64 / el, (totalcpu(names).0 - c0.0) * 1e3 / el);
    drop(held); kill_rm(sock, ids, 4); Ok(())
}
fn main() {
    let mut pos = vec![]; let mut opt = BTreeMap::new(); let mut it = std::env::args().skip(1);
    while let Some(x) = it.next() { if let Some(k) = x.strip_prefix("--") { let v = if k == "keep" || k == "hold" { "1".into() } else { it.next().unwrap_or_default() }; opt.insert(k.to_string(), v); } else { pos.push(x); } }
    let a = Args { pos, opt }; let sock = a.get("sock", &std::env::var("ENGINE_SOCK").unwrap_or_default());
    let names: Vec<String> = a.get("procs", "dockerd,containerd,containerd-shim,docker-proxy").split(',').map(|s| s.to_string()).collect();
    let r = match a.pos.first().map(|s| s.as_str()) {
        Some("cycle") => cycle(&sock, &a, &names), Some("exec") => exec(&sock, &a), Some("get") => get(&sock, &a, &names),
        Some("density") => density(&sock, &a, &names), Some("logs") => logs(&sock, &a, &names), Some("attach") => attach(&sock, &a, &names),
        Some("execs") => execs(&sock, &a, &names), Some("followers") => followers(&sock, &a, &names), Some("stats") => stats(&sock, &a, &names), Some("usage") => { report(&names, 0, &mut None); Ok(()) }
        _ => { eprintln!("loadgen --sock PATH [--procs NAME,NAME (process names whose cpu and memory count)] [--image busybox] [--net none|bridge] [--log DRIVER]
  cycle [--n 50 --c 1 --pause MS]     create+start+wait+delete over one keep-alive connection per client
  exec [--n 50]                 exec create, start (until EOF), inspect
  get PATH [--c 1 --d 3]        requests/s
  density [--steps 100,300,1000 --c 4 --keep]
  logs [--mb 1024 --log json-file --keep]   image must hold /logspew
  attach [--mb 1024 --log json-file]         the same through an attached client
  execs [--n 10000]             many execs one after another, and what they leave
  followers [--n 1000 --rounds 2 --tcp HOST:PORT --hold]   clients of logs and events that die
  stats [--n 200 --d 10]        statistics of many containers, streamed
  usage                         memory and cpu of --procs"); std::process::exit(2) } };
    if let Err(e) = r { eprintln!("loadgen: {e}"); std::process::exit(1); }
}
