-- The roles of a team. The container of compose.yaml runs this once, as the administrator of the database run_logs.
-- psql reads the passwords from the environment, so none stands here.
\getenv pipelines_password PIPELINES_PASSWORD
\getenv dashboard_password DASHBOARD_PASSWORD

-- Pipelines and people. The role creates the table at its first run, and the views with `magnus db create-views`.
CREATE ROLE pipelines LOGIN PASSWORD :'pipelines_password';
GRANT CREATE ON SCHEMA public TO pipelines;

-- Grafana reads only. This also holds for the table and the views that pipelines creates later.
CREATE ROLE dashboard LOGIN PASSWORD :'dashboard_password';
ALTER DEFAULT PRIVILEGES FOR ROLE pipelines IN SCHEMA public GRANT SELECT ON TABLES TO dashboard;
