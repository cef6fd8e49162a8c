// Testcontainers for Node: its ways to wait, networks, copies, logs, reuse, images and Compose, as its users write them.
const assert = require('node:assert');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { Readable } = require('node:stream');
const { DockerComposeEnvironment, GenericContainer, Network, Wait } = require('testcontainers');

const scratch = process.env.SCRATCH;
const serve = 'mkdir -p /www && echo hello > /www/index.html && echo starting && echo ready >&2 && exec httpd -f -p 8080 -h /www';
const web = () => new GenericContainer('busybox').withCommand(['sh', '-c', serve]).withExposedPorts(8080);
const idle = () => new GenericContainer('busybox').withCommand(['sleep', '600']);
const get = async (c) => (await fetch(`http://${c.getHost()}:${c.getMappedPort(8080)}/`)).text();
const healthy = { test: ['CMD-SHELL', 'test -f /www/index.html'], interval: 200, timeout: 1000, retries: 20, startPeriod: 100 };
const bytes = async (stream) => Buffer.concat(await stream.toArray());

const story = {
  async ports() {
    const c = await web().start();
    assert.equal(await get(c), 'hello\n');
    const ran = await c.exec(['sh', '-c', 'echo out; echo err >&2; exit 3']);
    assert.deepEqual([ran.exitCode, ran.stdout, ran.stderr], [3, 'out\n', 'err\n']);
    const other = await c.exec(['sh', '-c', 'echo $(pwd) $A $(id -u)'], { user: '7', workingDir: '/tmp', env: { A: 'b' } });
    assert.equal(other.stdout, '/tmp b 7\n');
    await c.restart();
    assert.equal(await get(c), 'hello\n');
    await c.stop();
  },
  async waits() {
    for (const strategy of [
      Wait.forLogMessage('ready'),
      Wait.forLogMessage(/star.ing/, 1),
      Wait.forHttp('/', 8080).forStatusCode(200).forResponsePredicate((body) => body === 'hello\n'),
      Wait.forSuccessfulCommand('test -f /www/index.html'),
      Wait.forAll([Wait.forListeningPorts(), Wait.forLogMessage('ready')]).withDeadline(30000),
    ]) {
      const c = await web().withWaitStrategy(strategy).start();
      await c.stop();
    }
    const well = await web().withHealthCheck(healthy).withWaitStrategy(Wait.forHealthCheck()).start();
    await well.stop();
    const ill = { ...healthy, test: ['CMD-SHELL', 'exit 1'], retries: 1 };
    await assert.rejects(web().withHealthCheck(ill).withWaitStrategy(Wait.forHealthCheck()).start(), /unhealthy/);
    const once = (code) => new GenericContainer('busybox').withCommand(['sh', '-c', `exit ${code}`])
      .withWaitStrategy(Wait.forOneShotStartup());
    await (await once(0).start()).stop();
    await assert.rejects(once(4).start(), /failed to start/);
  },
  async networks() {
    const network = await new Network().start();
    const served = await web().withNetwork(network).withNetworkAliases('one', 'two').start();
    const client = await idle().withNetwork(network).start();
    for (const name of ['one', 'two']) {
      assert.equal((await client.exec(['wget', '-qO-', `http://${name}:8080/`])).stdout, 'hello\n');
    }
    assert.match(served.getIpAddress(network.getName()), /^172\./);
    await Promise.all([client.stop(), served.stop()]);
    await network.stop();
  },
  async copies() {
    fs.mkdirSync(path.join(scratch, 'dir'), { recursive: true });
    fs.writeFileSync(path.join(scratch, 'file'), 'file');
    fs.writeFileSync(path.join(scratch, 'dir', 'x'), 'x');
    const c = await idle()
      .withCopyFilesToContainer([{ source: path.join(scratch, 'file'), target: '/in/f', mode: 0o600 }])
      .withCopyDirectoriesToContainer([{ source: path.join(scratch, 'dir'), target: '/in/d' }])
      .withCopyContentToContainer([{ content: 'content', target: '/in/c' }])
      .start();
    const read = await c.exec(['sh', '-c', 'cat /in/f /in/d/x /in/c; stat -c %a /in/f']);
    assert.equal(read.stdout, 'filexcontent600\n');
    await c.copyContentToContainer([{ content: 'later', target: '/later/f' }]);
    const archive = await bytes(await c.copyArchiveFromContainer('/later'));
    await c.copyArchiveToContainer(Readable.from(archive), '/tmp');
    assert.equal((await c.exec(['cat', '/tmp/later/f'])).stdout, 'later');
    await c.stop();
  },
  async logs() {
    const seen = [];
    const c = await new GenericContainer('busybox').withCommand(['sh', '-c', 'echo 1; echo 2; echo 3; sleep 600'])
      .withLogConsumer((stream) => stream.on('data', (line) => seen.push(String(line).trim())))
      .withWaitStrategy(Wait.forLogMessage('3')).start();
    const lines = [];
    const stream = await c.logs({ tail: 2 });
    await new Promise((done) => stream.on('data', (l) => lines.push(String(l).trim()) === 2 && done()));
    assert.deepEqual(lines, ['2', '3']);
    while (seen.length < 3) await new Promise((done) => setTimeout(done, 10));
    assert.deepEqual(seen, ['1', '2', '3']);
    await c.stop();
  },
  async options() {
    const c = await idle().withName('named').withEnvironment({ A: 'b' }).withLabels({ l: 'v' })
      .withTmpFs({ '/mem': 'rw,size=10m' }).withUlimits({ nofile: { hard: 1000, soft: 500 } })
      .withAddedCapabilities('NET_ADMIN').withDroppedCapabilities('MKNOD').withHostname('hosty')
      .withExtraHosts([{ host: 'foo', ipAddress: '10.11.12.13' }]).withUser('0').withWorkingDir('/tmp')
      .withResourcesQuota({ memory: 0.25, cpu: 0.5 }).withSharedMemorySize(10 * 1024 * 1024)
      .withBindMounts([{ source: scratch, target: '/b', mode: 'ro' }]).withEntrypoint(['env']).start();
    const script = 'echo $A $(hostname) $(grep -c foo /etc/hosts) $(ulimit -n) $(pwd); touch /b/x 2>/dev/null || echo read-only';
    assert.equal((await c.exec(['sh', '-c', script])).stdout, 'b hosty 1 500 /tmp\nread-only\n');
    assert.equal(c.getLabels().l, 'v');
    assert.equal(c.getName(), '/named');
    await c.stop();
  },
  async reuse() {
    const start = () => idle().withWaitStrategy(Wait.forSuccessfulCommand('true')).withReuse().start();
    const [first, second] = [await start(), await start()];
    assert.equal(first.getId(), second.getId());
    await first.stop({ remove: false });
    const third = await start();
    assert.equal(third.getId(), first.getId());
    await third.stop();
  },
  async images() {
    const c = await idle().start();
    await c.exec(['sh', '-c', 'echo kept > /kept']);
    await c.commit({ repo: 'committed', tag: '1', deleteOnExit: false, changes: ['LABEL a=b'], author: 'me', comment: 'why' });
    const next = await new GenericContainer('committed:1').withCommand(['sleep', '600']).start();
    assert.equal((await next.exec(['cat', '/kept'])).stdout, 'kept\n');
    await Promise.all([next.stop(), c.stop()]);
    await assert.rejects(new GenericContainer('127.0.0.1:1/nobody/has:1').start());
    await assert.rejects(new GenericContainer('busybox').withCommand(['nonesuch']).start(), /executable file not found in \$PATH/);
  },
  async host() {
    const server = http.createServer((request, answer) => answer.end('from the host'));
    await new Promise((done) => server.listen(0, '0.0.0.0', done));
    const c = await idle().withExtraHosts([{ host: 'host.docker.internal', ipAddress: 'host-gateway' }]).start();
    const url = `http://host.docker.internal:${server.address().port}/`;
    assert.equal((await c.exec(['wget', '-qO-', url])).stdout, 'from the host');
    await c.stop();
    server.close();
    server.closeAllConnections();
  },
  async compose() {
    if (!process.env.WITH_COMPOSE) return;
    fs.writeFileSync(path.join(scratch, 'compose.yml'), `
services:
  web:
    image: busybox
    command: ["sh", "-c", "${serve}"]
    ports: ["8080"]
    stop_grace_period: 0s
    healthcheck: {test: ["CMD", "test", "-f", "/www/index.html"], interval: 1s}
`);
    const up = await new DockerComposeEnvironment(scratch, 'compose.yml').withWaitStrategy('web-1', Wait.forHealthCheck()).up();
    assert.equal(await get(up.getContainer('web-1')), 'hello\n');
    await up.down({ timeout: 0 });
  },
};

(async () => {
  for (const [name, part] of Object.entries(story)) {
    await part().catch((e) => { e.message = `${name}: ${e.message}`; throw e; });
  }
  console.log('story told');
  process.exit(0);
})().catch((e) => { console.error(e); process.exit(1); });
