-- Client certificates are credentials without a secret, known by the names of subject and issuer.
ALTER TABLE tokens ADD COLUMN certificate TEXT NOT NULL DEFAULT '';
CREATE INDEX tokens_certificate ON tokens (certificate) WHERE certificate != '';
