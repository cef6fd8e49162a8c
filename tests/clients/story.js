// The small story with dockerode: run with streams, exec with hijack, logs, inspect, errors.
const assert = require('node:assert');
const { PassThrough } = require('node:stream');
const Docker = require('dockerode');

const docker = new Docker({ socketPath: process.env.SOCKET });
const text = (stream) => new Promise((resolve, reject) => {
  let all = '';
  stream.on('data', (d) => { all += d; });
  stream.on('end', () => resolve(all));
  stream.on('error', reject);
});

(async () => {
  assert.equal((await docker.ping()).toString(), 'OK');
  const out = new PassThrough();
  const err = new PassThrough();
  const collected = Promise.all([text(out), text(err)]);
  const [result, container] = await docker.run('busybox', ['sh', '-c', 'echo out; echo err >&2; exit 2'], [out, err], { Tty: false });
  out.end();
  err.end();
  assert.equal(result.StatusCode, 2);
  assert.deepEqual(await collected, ['out\n', 'err\n']);
  await container.remove();

  const box = await docker.createContainer({ Image: 'busybox', Cmd: ['sleep', '600'], name: 'node' });
  await box.start();
  const exec = await box.exec({ Cmd: ['cat'], AttachStdin: true, AttachStdout: true });
  const stream = await exec.start({ hijack: true, stdin: true });
  const answer = new PassThrough();
  docker.modem.demuxStream(stream, answer, answer);
  stream.on('end', () => answer.end());
  stream.write('through the hijacked stream\n');
  stream.end();
  assert.equal(await text(answer), 'through the hijacked stream\n');
  assert.equal((await exec.inspect()).ExitCode, 0);
  assert.equal((await box.inspect()).State.Status, 'running');
  await assert.rejects(docker.getContainer('nobody').inspect(), (e) => e.statusCode === 404 && /No such container: nobody/.test(e.reason + e.json.message));
  await box.remove({ force: true });
  assert.equal((await docker.listContainers({ all: true })).length, 0);
  console.log('story told');
})().catch((e) => { console.error(e); process.exit(1); });
