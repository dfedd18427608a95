-- What goes through many rows: reading, writing, copying, looking for many, and the jobs of a rotation.
\set ON_ERROR_STOP on
SET jit = off;
VACUUM (ANALYZE) person, account;
SELECT count(email), count(name), max(born), sum(salary), sum(visits), count(token), sum(length(photo)), max(seen),
       count(*) FILTER (WHERE is_member), count(profile), sum(length(note)) FROM people;
SELECT count(colcrypt.decrypt_col(note, colcrypt.place_context('public.account.note', id))) FROM account;
SELECT count(colcrypt.encrypt_col(state, 'data')), count(colcrypt.encrypt_col(state, 'wide')),
       count(colcrypt.encrypt_col(state, 'data', colcrypt.row_context(id, state))),
       count(colcrypt.decrypt_col(colcrypt.encrypt_col(id, 'data', colcrypt.row_context(id)), NULL::int, colcrypt.row_context(id))),
       count(colcrypt.decrypt_col(colcrypt.encrypt_col(state, 'data')))
FROM person;
SELECT count(colcrypt.decrypt_col(email, colcrypt.place_context('public.person.email', id))) FROM person WHERE state = 'new';

PREPARE born (date) AS SELECT id FROM people WHERE born >= $1 AND born < $1 + 30;
PREPARE named (text) AS SELECT id FROM people WHERE name LIKE $1;
SELECT format('EXECUTE born (%L)', date '1950-09-20' + n * 271) FROM generate_series(1, 100) n \gexec
SELECT format('EXECUTE named (%L)', '%' || substr(md5(n::text), 3, 5) || '%') FROM generate_series(1, 100) n \gexec
SELECT count(*) FROM people a JOIN people b USING (email) WHERE a.id <= 500;
SELECT count(*) FROM people WHERE email IN ('user1@example.com', 'user2@example.com', 'user99999@example.com');

UPDATE people SET note = 'changed', salary = salary + 1;
UPDATE people SET state = 'old';
UPDATE account_view SET note = 'changed';
DELETE FROM people WHERE id > 1900;
CREATE TEMP TABLE copied AS SELECT * FROM account_view;
DELETE FROM account_view;
\copy copied TO copied.tsv
\copy account_view FROM copied.tsv
INSERT INTO account_view SELECT id + 100000, note, balance FROM copied;

SELECT colcrypt.rotate_key(key) FROM unnest('{data,wide,search}'::text[]) key;
