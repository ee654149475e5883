import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmError } from '../base/errors.ts';
import { nearest } from './schema-faults.ts';
import { StackFile } from './stack-file.ts';
import { parseYaml } from './yaml-file.ts';

function refusal(text: string): string {
  try {
    parseYaml('stack.yaml', text, StackFile);
  } catch (error) {
    assert.ok(error instanceof DmError, String(error));
    return error.message;
  }
  return assert.fail(`taken: ${text}`);
}

test('a refusal has the line and the name of the field, and what may have been meant', () => {
  const device = 'devices:\n  - name: low\n';
  const good = `${device}    table: 0 8 zero\n`;
  const cases: readonly (readonly [string, string])[] = [
    [
      `${device}    tabel: 0 8 zero\n`,
      "3: devices.0: unknown field 'tabel'; did you mean 'table'? " +
        '(line 2: devices.0.table: missing; expected a table line or a list of table lines)',
    ],
    [
      `${good}  - table: 0 8 zero\n    nam: x\n`,
      "5: devices.1: unknown field 'nam'; did you mean 'name'? " +
        '(line 4: devices.1.name: missing; expected a string)',
    ],
    [`${good}\n  - table: 0 8 zero\n`, '5: devices.1.name: missing; expected a string'],
    [
      `${good}    readonly: true\n`,
      "4: devices.0: unknown field 'readonly'; did you mean 'readOnly'?",
    ],
    [`${good}    colour: red\n`, "4: devices.0: unknown field 'colour'"],
    [`${good}expotrs: []\n`, "4: unknown field 'expotrs'; did you mean 'exports'?"],
    [`${good}listen:\n  # where\n  port: 1\n`, "6: listen: unknown field 'port'"],
    [
      `# empty\n\n${device}`,
      '4: devices.0.table: missing; expected a table line or a list of table lines',
    ],
    [
      `${device}    table:\n      - 0 8 zero\n      - 7\n`,
      '3: devices.0.table: expected a table line or a list of table lines, found ["0 8 zero",7]',
    ],
    [`${good}    minor: x\n`, '4: devices.0.minor: expected a number, found "x"'],
    [`${good}exports:\n  - name: a\n`, '5: exports.0.device: missing; expected a string'],
    [`${good}exports:\n  - 7\n`, '5: exports.0: expected an object, found 7'],
    ['devices: []\n', '1: devices: Too small: expected array to have >=1 items, found []'],
    ['', '1: expected an object, found null'],
    [`${good}${good}`, '4: Map keys must be unique'],
    [`${good}  bad indent: [\n`, '4: '],
  ];
  for (const [text, expected] of cases) {
    const message = refusal(text);
    assert.ok(message.startsWith(`stack.yaml:${expected}`), `${message}\nexpected ${expected}`);
  }
});

test('the nearest word is one that could have been meant', () => {
  const words = ['table', 'name', 'readOnly', 'minor'];
  assert.equal(nearest('tabel', words), 'table');
  assert.equal(nearest('nmae', words), 'name');
  assert.equal(nearest('readonly', words), 'readOnly');
  assert.equal(nearest('read_only', words), 'readOnly');
  assert.equal(nearest('uuid', words), undefined);
});
