// A compute thread: takes jobs from its ring until told to stop.

import { writeSync } from 'node:fs';
import {
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  workerData,
} from 'node:worker_threads';
import { bug } from '../base/assert.ts';
import type { ComputeHandler, MakeHandler } from './compute.ts';
import {
  type ComputeMail,
  type ComputeWorkerData,
  doneAt,
  jobAt,
  OwnerWord,
  Word,
} from './compute-rings.ts';

const data = workerData as ComputeWorkerData;
const words = new Int32Array(data.rings);
const owner = new Int32Array(data.owner);
const handlers = new Map<number, ComputeHandler>();
const WAKE = new Uint8Array(new BigUint64Array([1n]).buffer);
let mailRead = 0;

async function readMail(port: MessagePort): Promise<void> {
  while (mailRead !== Atomics.load(words, Word.Mail)) {
    const received = receiveMessageOnPort(port);
    if (received === undefined) {
      // Counted and not here yet.
      await new Promise((resolve) => setImmediate(resolve));
      continue;
    }
    mailRead = (mailRead + 1) | 0;
    const mail = received.message as ComputeMail;
    if (mail.kind === 'drop') {
      handlers.delete(mail.id);
      continue;
    }
    const module = (await import(mail.module)) as { makeHandler: MakeHandler };
    handlers.set(mail.id, module.makeHandler(data.memory, data.scratch, mail.recipe));
  }
}

function runJobs(): void {
  for (;;) {
    const head = words[Word.JobHead] as number;
    if (head === Atomics.load(words, Word.JobTail)) return;
    const at = jobAt(head);
    const handler = handlers.get(words[at] as number);
    // Its definition is in the mail.
    if (handler === undefined) return;
    const position =
      ((words[at + 6] as number) >>> 0) * 2 ** 32 + ((words[at + 5] as number) >>> 0);
    handler.run(
      words[at + 1] as number,
      words[at + 2] as number,
      words[at + 3] as number,
      words[at + 4] as number,
      position,
    );
    const token = words[at + 7] as number;
    Atomics.store(words, Word.JobHead, (head + 1) | 0);
    const tail = words[Word.DoneTail] as number;
    words[doneAt(tail)] = token;
    Atomics.store(words, Word.DoneTail, (tail + 1) | 0);
    wakeOwner();
  }
}

function wakeOwner(): void {
  if (Atomics.load(owner, OwnerWord.IsAsleep) === 0) return;
  if (Atomics.compareExchange(owner, OwnerWord.IsAsleep, 1, 0) !== 1) return;
  if (data.wakeFd >= 0) writeSync(data.wakeFd, WAKE);
  else {
    Atomics.add(owner, OwnerWord.Bell, 1);
    Atomics.notify(owner, OwnerWord.Bell);
  }
}

async function main(port: MessagePort): Promise<void> {
  await readMail(port);
  Atomics.store(words, Word.IsReady, 1);
  while (Atomics.load(words, Word.IsStopped) === 0) {
    if (mailRead !== Atomics.load(words, Word.Mail)) await readMail(port);
    runJobs();
    const bell = Atomics.load(words, Word.Bell);
    Atomics.store(words, Word.IsAsleep, 1);
    const hasWork =
      (words[Word.JobHead] as number) !== Atomics.load(words, Word.JobTail) ||
      mailRead !== Atomics.load(words, Word.Mail) ||
      Atomics.load(words, Word.IsStopped) !== 0;
    if (!hasWork) Atomics.wait(words, Word.Bell, bell);
    Atomics.store(words, Word.IsAsleep, 0);
  }
  Atomics.store(words, Word.IsEnded, 1);
  Atomics.notify(words, Word.IsEnded);
}

main(parentPort ?? bug('compute worker: not in a worker thread')).catch((error: unknown) => {
  // A bug: who waits for this thread would wait for ever. The owner may be asleep, so not through him.
  writeSync(2, `compute thread: ${error instanceof Error ? error.stack : String(error)}\n`);
  process.kill(process.pid, 'SIGABRT');
});
