// Keys in the kernel's keyring of this user, for a test: what `keyctl padd` and `keyctl unlink` do.

import { addressOf, errno, syscall6 } from '../io/posix.ts';

const ADD_KEY: Readonly<Record<string, number>> = { x64: 248, arm64: 217 };
const KEYCTL: Readonly<Record<string, number>> = { x64: 250, arm64: 219 };
const KEYCTL_UNLINK = 9;
const USER_KEYRING = -4;

export class UserKeys implements Disposable {
  readonly #keys = new Set<number>();

  /** Whether the kernel lets a key be put there; then it is. */
  canPut(description: string, payload: string): boolean {
    const number = process.platform === 'linux' ? ADD_KEY[process.arch] : undefined;
    if (number === undefined) return false;
    const [type, name] = [Buffer.from('user\0'), Buffer.from(`${description}\0`)];
    const bytes = Buffer.from(payload);
    const [a, b, c] = [addressOf(type), addressOf(name), addressOf(bytes)];
    const key = syscall6(number, a, b, c, bytes.length, USER_KEYRING, 0);
    if (key > 0) this.#keys.add(key);
    return key > 0;
  }

  put(description: string, payload: string): void {
    if (!this.canPut(description, payload)) throw new Error(`add_key: errno ${errno()}`);
  }

  /** All of them go. */
  end(): void {
    const number = KEYCTL[process.arch];
    if (number === undefined) return;
    for (const key of this.#keys) syscall6(number, KEYCTL_UNLINK, key, USER_KEYRING, 0, 0, 0);
    this.#keys.clear();
  }

  [Symbol.dispose](): void {
    this.end();
  }
}
