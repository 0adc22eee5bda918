-- How the attempts of a dataset ended that were lent to other sites.  A trigger counts, so that
-- whatever records an attempt does, copying a store included.
CREATE TABLE ended_at_sites (
    number INTEGER NOT NULL,
    site TEXT NOT NULL,
    outcome TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    PRIMARY KEY (number, site, outcome)
) WITHOUT ROWID;

CREATE TRIGGER attempts_at_sites AFTER INSERT ON attempts WHEN NEW.pilot_id >= 'site:' AND NEW.pilot_id < 'site;'
BEGIN
    INSERT INTO ended_at_sites (number, site, outcome, attempts)
    VALUES (NEW.key >> 40, substr(NEW.pilot_id, 6), NEW.outcome, 1)
    ON CONFLICT (number, site, outcome) DO UPDATE SET attempts = attempts + 1;
END;
