-- Devices that were enrolled by an invitation, and how often each has renewed its token.
CREATE TABLE device (
    tenant bigint NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    id text NOT NULL,
    renewals bigint NOT NULL DEFAULT 0,
    is_revoked boolean NOT NULL DEFAULT false,
    enrolled timestamptz NOT NULL DEFAULT now(),
    seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id)
);
ALTER TABLE device ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_devices ON device
    USING (tenant = nullif(current_setting('autoglm.tenant', true), '')::bigint);
GRANT SELECT, INSERT, UPDATE ON device TO autoglm_service;
