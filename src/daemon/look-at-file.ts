// What tells one state of a file from another, at the cost of a stat.

import { stat } from 'node:fs/promises';

export async function lookAtFile(path: string): Promise<string> {
  try {
    const { dev, ino, rdev, size, mtimeMs, mode } = await stat(path);
    return [dev, ino, rdev, size, mtimeMs, mode].join(' ');
  } catch (error) {
    return (error as { code?: string }).code ?? 'unknown';
  }
}
