-- Versions that a device sealed together share one payload, under the counter of the first of them.
CREATE TABLE shared_payload (
    tenant bigint NOT NULL,
    actor bigint NOT NULL,
    counter bigint NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (tenant, actor, counter),
    FOREIGN KEY (tenant, actor) REFERENCES actor (tenant, actor) ON DELETE CASCADE
);
ALTER TABLE version ALTER COLUMN payload DROP NOT NULL;
ALTER TABLE version ADD COLUMN shared bigint;
ALTER TABLE version ADD CHECK ((payload IS NULL) = (shared IS NOT NULL));
CREATE INDEX version_shared ON version (tenant, actor, shared) WHERE shared IS NOT NULL;

ALTER TABLE shared_payload ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_shared_payloads ON shared_payload
    USING (tenant = nullif(current_setting('autoglm.tenant', true), '')::bigint);
GRANT SELECT, INSERT, DELETE ON shared_payload TO autoglm_service;
