// SPDX-License-Identifier: Apache-2.0
// What session.js and the sessions by Connect do with their clients, whose methods look the same; `errors` reads an error of theirs.
const text = new TextDecoder();

function payload(value) {
  return { form: { case: "json", value: new TextEncoder().encode(JSON.stringify(value)) } };
}

function json(payload) {
  return text.decode(payload.form.value);
}

function show(what, result) {
  console.log(`${what} ${result.stepIndex} reward ${result.reward.toFixed(2)} done ${Number(result.done)} ${json(result.observation)}`);
}

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("the call did not fail");
}

function fnv(bytes) {
  let h = 2166136261;
  for (const byte of bytes) h = Math.imul(h ^ byte, 16777619);
  return (h >>> 0).toString(16).padStart(8, "0");
}

export async function runSession(sessions, errors) {
  const session = await sessions.createSession({ environment: "cartpole" });
  console.log(`create ${session.environment} ${session.state}`);
  let result = await sessions.reset({ session: session.name, seed: 7n, episodeId: "episode-1" });
  show("reset", result);
  for (let i = 0; i < 50; i++) {
    if (result.done) show("reset", await sessions.reset({ session: session.name, seed: 8n, episodeId: "episode-2" }));
    result = await sessions.step({ session: session.name, action: payload({ action: i % 2 }), requestId: `step-${i}` });
    show("step", result);
  }
  console.log(`state ${json((await sessions.getState({ session: session.name })).state)}`);

  const refused = await failure(sessions.step({ session: session.name, action: payload({ action: 7 }) }));
  const info = errors.info(refused);
  console.log(`invalid ${errors.code(refused)} ${info.reason} ${info.domain} ${errors.bad(refused).fieldViolations[0].field}`);

  const slow = await sessions.createSession({ environment: "slow" });
  const late = { session: slow.name, action: payload({ message: "late" }), requestId: "late" };
  console.log(`deadline ${errors.code(await failure(sessions.step(late, { timeoutMs: 150 })))}`);
  console.log(`collected ${json((await sessions.step(late)).metadata)}`);
  const never = { session: slow.name, action: payload({ message: "never mind" }), requestId: "never" };
  const cancel = new AbortController();
  setTimeout(() => cancel.abort(), 150);
  console.log(`cancel ${errors.code(await failure(sessions.step(never, { signal: cancel.signal })))}`);
  console.log(`collected ${json((await sessions.step(never)).metadata)}`);

  const echo = await sessions.createSession({ environment: "echo" });
  const data = "abcdefghijklmnopqrstuvwxyz".repeat(1 << 17).slice(0, 3 << 20);
  const large = (await sessions.step({ session: echo.name, action: payload({ message: "large", data }) })).observation.form.value;
  console.log(`large ${large.length} ${fnv(large)}`);

  for (const { name } of [session, slow, echo]) await sessions.closeSession({ name });
  const gone = await failure(sessions.getSession({ name: session.name }));
  console.log(`closed ${errors.code(gone)} ${errors.info(gone).reason}`);
}
