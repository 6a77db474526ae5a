"""What Streamlit runs for every visitor and every change."""

from explorer.serve import draw_served

draw_served()
