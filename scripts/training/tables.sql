-- Tables as applications have them, for scripts/train.sh: columns of many types, an access view, search indexes.
-- :key_file is a root key. What the release is to be fast at is done here or in the scripts beside this one.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION colcrypt;
SELECT colcrypt.add_provider('local', 'file', jsonb_build_object('path', :'key_file'));
SELECT colcrypt.create_keyring('app', 'local');
SELECT colcrypt.create_key('data', 'app'), colcrypt.create_key('wide', 'app', 'xaes-256-gcm'),
       colcrypt.create_key('search', 'app', 'hmac-sha-256');

CREATE TABLE person (
    id int PRIMARY KEY,
    email colcrypt.ciphertext, name colcrypt.ciphertext, born colcrypt.ciphertext, salary colcrypt.ciphertext,
    visits colcrypt.ciphertext, token colcrypt.ciphertext, photo colcrypt.ciphertext, seen colcrypt.ciphertext,
    is_member colcrypt.ciphertext, profile colcrypt.ciphertext, note colcrypt.ciphertext,
    state text);
SELECT colcrypt.register_column('person', attribute, key, plaintext_type => type)
FROM (VALUES ('email', 'data', 'text'), ('name', 'data', 'text'), ('born', 'data', 'date'), ('salary', 'data', 'numeric'),
             ('visits', 'data', 'bigint'), ('token', 'data', 'uuid'), ('photo', 'wide', 'bytea'),
             ('seen', 'data', 'timestamptz'), ('is_member', 'data', 'boolean'), ('profile', 'wide', 'jsonb'),
             ('note', 'data', 'text')) AS c (attribute, key, type);
SELECT colcrypt.create_access_view('person', 'people');
INSERT INTO people
SELECT n, 'user' || n || '@example.com', md5(n::text), date '1950-09-20' + n * 37 % 29200, n * 1.25, n, md5(n::text)::uuid,
       decode(repeat(md5(n::text), 1 + n % 40), 'hex'), timestamptz '2026-01-01 12:00Z' - n * interval '1 minute',
       n % 3 = 0, jsonb_build_object('n', n, 'tags', jsonb_build_array('a', n)), repeat('a note of some length ', n % 30), 'new'
FROM generate_series(1, 2000) n;

CREATE TABLE account (id int PRIMARY KEY, note colcrypt.ciphertext, balance int);
SELECT colcrypt.register_column('account', 'note', 'data');
SELECT colcrypt.create_access_view('account', 'account_view');
INSERT INTO account
SELECT n, colcrypt.encrypt_col(md5(n::text), 'data', colcrypt.place_context('public.account.note', n)), 0
FROM generate_series(1, 2000) n;

SELECT colcrypt.create_search_index('person', 'email', is_unique => true, key => 'search');
SELECT colcrypt.create_search_index('person', 'name', kind => 'text', key => 'search');
SELECT colcrypt.create_search_index('person', 'born', kind => 'range', key => 'search');
